"""A table's numbers per source, target domain and class, from which its means are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tta_bench.report.model import Table
from tta_bench.report.statistics import mean_and_std


class Part(NamedTuple):
    """What a row got for one source and target, mean over its finished seeds.

    Attributes:
        row: its label.
        values: of the metric per class; None where there is none.
        mean: over the classes, as the table counts it; None likewise.
        cases: the metric over whole volumes; None where a cell has it not.
        n: images of one seed.
        seeds: how many are finished, at least one.
    """

    row: str
    source: str
    target: str
    values: Mapping[str, float | None]
    mean: float | None
    cases: float | None
    n: int
    seeds: int


def breakdown(table: Table) -> list[Part]:
    """By row, source and target in the table's order; none where no cell is finished."""
    parts = []
    for row in table.rows:
        for source, targets in table.targets.items():
            cells = [cell for cell in table.finished if (cell.row, cell.cell.config.source) == (row.label, source)]
            for target in targets if cells else ():
                found = [cell.summary["targets"][target] for cell in cells]
                name = table.metric.name
                values = {label: _mean([each.get(f"{name}_{label}") for each in found]) for label in table.classes}
                mean = _mean([each.get(name) for each in found])
                whole = [each.get(f"case_{name}") for each in found]
                cases = None if None in whole else _mean(whole)
                parts.append(Part(row.label, source, target, values, mean, cases, found[0]["n"], len(found)))
    return parts


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean_and_std(known)[0] if known else None
