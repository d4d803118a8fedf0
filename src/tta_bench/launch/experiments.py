"""From the name of a table to its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tta_bench.cell import Cell
from tta_bench.errors import UserError, nearest
from tta_bench.launch.check import find_jobs
from tta_bench.launch.experiment_files import Experiment, read_experiments
from tta_bench.launch.grammar import quote_lists


@dataclass(frozen=True)
class PlannedCell:
    """A cell and the row of the table that it belongs to."""

    row: str
    cell: Cell


@dataclass(frozen=True)
class Plan:
    """All cells of a table.

    Attributes:
        experiment: the table.
        cells: in the order in which they run.
        overrides: what was changed on the command line.
    """

    experiment: Experiment
    cells: tuple[PlannedCell, ...]
    overrides: tuple[str, ...]


def plan(name: str, overrides: Sequence[str] = ()) -> Plan:
    """The cells of a table, finished or not; the same as those of ``python -m tta_bench experiment=NAME``.

    Args:
        name: of a file in ``experiments/``.
        overrides: as on the command line of a run.

    Raises:
        UserError: an unknown table, or every fault of the overrides.
    """
    experiments = read_experiments()
    if name not in experiments:
        raise UserError(f"unknown table '{name}': {nearest(name, experiments)}")
    experiment = experiments[name]
    labels = experiment.choices()
    cells = []
    for job in find_jobs(quote_lists([f"experiment={name}", *overrides], multirun=True)):
        assert job.row is not None
        cells += [PlannedCell(labels[job.row], cell) for cell in Cell.all_of(job.config)]
    return Plan(experiment, tuple(cells), tuple(overrides))
