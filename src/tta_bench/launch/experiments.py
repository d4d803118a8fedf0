"""From the name of a table to its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tta_bench.cell import Cell
from tta_bench.errors import UserError, nearest
from tta_bench.launch.check import Job, find_jobs
from tta_bench.launch.experiment_files import Experiment, find_experiment, read_experiments
from tta_bench.launch.grammar import quote_lists
from tta_bench.search.study import Study


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


def plan(word: str, overrides: Sequence[str] = (), config_dir: str | None = None) -> Plan:
    """The cells of a table, finished or not; the same as those of ``python -m tta_bench experiment=NAME``.

    Args:
        word: name of an experiment, or the path of its file.
        overrides: as on the command line of a run.
        config_dir: of Hydra's flag ``--config-dir``.

    Raises:
        UserError: an unknown table, or every fault of its file or of the overrides.
    """
    name = find_experiment(word, config_dir)
    if name is None:
        hint = nearest(word, read_experiments())
        end = "" if hint.endswith("?") else "."
        raise UserError(f"unknown table '{word}': {hint}{end} One's own is given by its path, PATH.yaml")
    quoted = quote_lists([f"experiment={name}", *overrides], multirun=True, config_dir=config_dir)
    return plan_of(name, find_jobs(quoted, config_dir=config_dir), overrides)


def searches(plan: Plan) -> list[Study]:
    """The searches of an experiment that tunes; none of one that runs cells."""
    found = {study.folder: study for study in (Study(planned.cell.config) for planned in plan.cells)}
    return [study for study in found.values() if study.config.tune]


def plan_of(name: str, jobs: Sequence[Job], overrides: Sequence[str]) -> Plan:
    """The cells of the jobs of an experiment.

    Args:
        name: of the experiment.
        jobs: of its command line.
        overrides: of that as they were typed, without the experiment.
    """
    experiment = read_experiments()[name]
    labels = experiment.choices()
    cells = []
    for job in jobs:
        assert job.row is not None
        cells += [PlannedCell(labels[job.row], cell) for cell in Cell.all_of(job.config)]
    return Plan(experiment, tuple(cells), tuple(overrides))
