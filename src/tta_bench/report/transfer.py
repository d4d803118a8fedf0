"""What rows have forgotten and gained, where their models are trained stage after stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tta_bench.ops.transfer import backward_transfer, forward_transfer
from tta_bench.report.model import FinishedCell, Table
from tta_bench.schema import RunConfig

Stages = tuple[str, ...]
"""Domains in the order of their training."""


class Transfer(NamedTuple):
    """The scores of a row."""

    matrix: Tensor  # ``[stages, stages]``: after the stage of a line, on the domain of a column
    models: float  # how many there are after the last stage, mean over the repeats

    @property
    def backward(self) -> float:
        """See :func:`tta_bench.ops.transfer.backward_transfer`."""
        return backward_transfer(self.matrix)

    @property
    def forward(self) -> float:
        """See :func:`tta_bench.ops.transfer.forward_transfer`."""
        return forward_transfer(self.matrix)


def stages_of(configs: Sequence[RunConfig]) -> Stages:
    """The stages of a table, in order; none where its rows are not trained in at least two, or not in the same."""
    longest = max((config.stages or () for config in configs), key=len, default=())
    same = all(config.stages is not None and config.stages == longest[: len(config.stages)] for config in configs)
    return longest if same and len(longest) > 1 else ()


def followed_stages(configs: Iterable[RunConfig]) -> set[Stages | None]:
    """The stages of those runs that others of them go on from: rows are compared in what is left at the end alone."""
    return {config.stages[:count] for config in configs if config.stages for count in range(1, len(config.stages))}


def transfers(table: Table) -> Mapping[str, Transfer | None]:
    """Label of a row -> its scores; None where a stage or a domain of it is missing.

    Empty without stages, and where the table is of some of them alone.
    """
    if not table.stages or not {*table.stages} <= {planned.cell.config.source for planned in table.plan.cells}:
        return {}
    cells = (*table.earlier, *table.finished)
    found = {row.label: [cell for cell in cells if cell.row == row.label] for row in table.rows}
    return {label: _transfer(of_row, table.stages, table.metric.name) for label, of_row in found.items()}


def _transfer(cells: Sequence[FinishedCell], stages: Sequence[str], metric: str) -> Transfer | None:
    """Means over the repeats."""
    by_stage = [[cell.summary for cell in cells if cell.cell.config.source == stage] for stage in stages]
    if not all(by_stage) or any(stage not in each["targets"] for of in by_stage for each in of for stage in stages):
        return None
    lines = [[[each["targets"][stage][metric] for stage in stages] for each in of] for of in by_stage]
    counts = [len(each.get("routes", [""])) for each in by_stage[-1]]
    matrix = torch.stack([torch.tensor(line, dtype=torch.float64).mean(0) for line in lines])
    return Transfer(matrix, sum(counts) / len(counts))
