"""The cells of a plan as a report reads them: finished or not, each file once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tta_bench.adaptation.provenance import staleness
from tta_bench.cell import Cell, Result
from tta_bench.launch.experiments import Plan
from tta_bench.metrics.base import Metric
from tta_bench.records.finished import DamagedError, read_json
from tta_bench.report.model import FinishedCell, MissingCell, Seed
from tta_bench.schema import RunConfig

STATES = ("done", "stale", "running", "interrupted", "killed", "failed", "missing")
"""Of a cell, see :class:`Reading`."""


class Reading(NamedTuple):
    """What there is of a cell."""

    # Of :data:`STATES`. A cell that says ``done`` is ``stale`` if the code that decides its numbers has changed since,
    # and ``missing`` if its results cannot be read: the next run computes it again.
    status: str
    error: str  # of a failed cell, or why a cell is stale; else empty
    results: Result | None  # of a cell that is done or stale

    @property
    def seconds(self) -> float | None:
        """Time that a done or stale cell spent on its images; None for any other."""
        if self.results is None:
            return None
        summary = self.results[0]
        return float(summary["seconds_per_image"]) * sum(target["n"] for target in summary["targets"].values())


def read_cell(cell: Cell) -> Reading:
    """Read the files of a cell."""
    folder = cell.folder()
    results = folder.finished()
    if results is not None:
        stale = staleness(results[0], cell.config)
        return Reading("stale" if stale else "done", stale or "", results)
    status = folder.status()
    if status == "failed":
        return Reading(status, folder.error(), None)
    killed = status == "running" and not folder.is_held()
    return Reading("killed" if killed else "missing" if status in (None, "done") else status, "", None)


class Standing(NamedTuple):
    """How a cell stands, beside what it is; what only results tell is None without any."""

    status: str  # of :data:`STATES`
    dice: float | None  # percent, mean over targets
    packed: bool | None  # whether it shared batches with other cells
    time: str  # of its last change of status, ISO 8601; empty where that is not known


def standing(cell: Cell) -> Standing:
    """Read the files of a cell, for a list or a filter of cells."""
    reading = read_cell(cell)
    try:
        time = str(read_json(cell.folder().path / "status.json").get("time", ""))
    except DamagedError:
        time = ""
    if reading.results is None:
        return Standing(reading.status, None, None, time)
    summary = reading.results[0]
    return Standing(reading.status, float(summary["dice"]), "packed" in summary, time)


def distinct_cells(plan: Plan) -> list[tuple[str, Cell]]:
    """Rows and cells of a plan; a cell that stands for several seeds is there once."""
    unique = {(planned.row, planned.cell.folder().hash): planned.cell for planned in plan.cells}
    return [(row, cell) for (row, _), cell in unique.items()]


def read_cells(cells: Sequence[tuple[str, Cell]], metric: Metric) -> tuple[list[FinishedCell], list[MissingCell]]:
    """The finished cells with their results, and the others."""
    finished, missing = [], []
    for row, cell in cells:
        seed = seed_of(cell)
        status, error, results = read_cell(cell)
        if status == "done" and results is not None:
            values = {(line["target"], line["index"]): float(line.get(metric.name) or "nan") for line in results[1]}
            finished.append(FinishedCell(row, cell, seed, *results, values))
        else:
            missing.append(MissingCell(row, cell.config.source, seed, cell.folder().hash, status, error))
    return finished, missing


def seed_of(cell: Cell) -> Seed:
    """What tells the cell from its repeats."""
    return Seed(cell.config.training.seed, cell.config.protocol.order, cell.seed if cell.is_stochastic else None)


def own_domain(config: RunConfig) -> str:
    """The domain that the source model of a run was trained on: of stages the first."""
    return config.of_each_source()[0].source


def name_of(row: str, cell: Cell) -> str:
    """A cell in a sentence."""
    return f"row '{row}', source {cell.config.source}, {seed_of(cell)} ({cell.folder().hash})"


def learned_from(config: RunConfig) -> str:
    """What the models of a run have learned from, in words: sources beside each other, or stages in their order."""
    if config.stages and config.adapt is not None:
        return f"trained on {', then '.join(config.stages)}"
    names = own_domain(config), *(config.route or ())
    return f"source{'s' * (len(names) > 1)} {', '.join(names)}"
