"""The files of a report, and what ``tta-bench plan``, ``status`` and ``report`` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.table import Table as RichTable

from tta_bench.cell import REFERENCE, Cell
from tta_bench.launch.experiments import Plan
from tta_bench.launch.progress import duration
from tta_bench.records.store import CellFolder
from tta_bench.report.cells import STATES, distinct_cells, read_cell
from tta_bench.report.console import ScoreTable, narrow_table
from tta_bench.report.model import Table
from tta_bench.report.notes import headline, spread_told
from tta_bench.report.text import Column, audit_groups, narrow_mean, number, p_value, transfer_groups
from tta_bench.runtime.files import write_atomically
from tta_bench.runtime.names import literal


def write_report(
    table: Table, folder: Path, source: str | None = None, images: Sequence[tuple[str, str]] | None = None
) -> list[Path]:
    """Write ``table.md``, ``table.csv``, ``table.tex``, ``index.html`` and its figures in ``figures/``.

    Args:
        table: finished or not.
        folder: to write to.
        source: of the panels, see :func:`tta_bench.report.panels.panels`.
        images: of the panels, likewise.

    Returns:
        The paths, Markdown first.

    Raises:
        UserError: the folder cannot be written to, or the panels asked for cannot be shown.
    """
    # Figures take a second to import, only here.
    from tta_bench.report.drawings import draw, picture_files
    from tta_bench.report.formats import formats

    drawn = draw(table, source, images)
    written = {name: write(replace(table, drawings=drawn)) for name, write in formats().items()}
    files: dict[str, str | bytes] = {name: content for name, content in written.items() if content}
    files |= {f"figures/{name}": content for name, content in picture_files(drawn).items()}
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def summary_table(table: Table) -> RichTable:
    """Means per source and on average, and the difference to the reference, in 80 columns; the files say more."""
    gaps = f", {len(table.missing)} cells missing" if table.missing else ""
    when = f" after stage {table.stages[-1]}" if table.stages else ""
    printed = ScoreTable(f"{table.name}: {table.metric.heading}{when}{gaps}", literal(_repeats(table)) or None)
    shown = {"has_settings": table.has_settings, "has_presets": table.has_presets}
    printed.add_score_columns(table.columns, table.reference, **shown)
    for row in table.rows:
        digits, comparison = table.metric.digits, row.vs_reference
        cells = [narrow_mean(row.result(column), digits) for column in table.columns]
        gain = ("", "") if comparison is None else (number(comparison.mean, digits, "+"), p_value(comparison.p_holm))
        options = [row.options] if table.has_presets else []
        settings = [row.setting_told] if table.has_settings else []
        printed.add_row(literal(row.label), *settings, *options, *cells, *map(literal, gain))
    return printed


def _repeats(table: Table) -> str:
    """What means and spreads are over; empty without repeats."""
    spread = spread_told(table)
    return headline(table) or (f"{spread}." if spread else "")


def transfer_tables(table: Table) -> list[RichTable]:
    """What each row has forgotten and gained, and what it can do after every stage; none where there are no stages."""
    return _group_tables(table, transfer_groups(table))


def audit_tables(table: Table) -> list[RichTable]:
    """The table by groups of images, and which is worst; none where no audit is asked for."""
    return _group_tables(table, audit_groups(table))


def _group_tables(table: Table, groups: Mapping[str, Sequence[Column]]) -> list[RichTable]:
    """A table for each group of columns, all with the same rows."""
    found = []
    for name, columns in groups.items():
        printed = narrow_table(f"{table.name}: {table.metric.heading} {name}")
        printed.add_column("row", overflow="fold")
        for column in columns:
            printed.add_column(literal(column.heading), justify="right", overflow="fold")
        for row, *cells in zip(table.rows, *(column.cells for column in columns), strict=True):
            printed.add_row(*map(literal, (row.label, *cells)))
        found.append(printed)
    return found


class State(NamedTuple):
    """Where a planned cell stands."""

    row: str  # its label
    cell: Cell  # what is planned
    folder: CellFolder  # of its results
    status: str  # of :data:`STATES`
    error: str  # see :class:`tta_bench.report.cells.Reading`
    seconds: float | None  # likewise


def states(plan: Plan) -> list[State]:
    """Where every cell of a plan stands, and those that a run adds to compare with.

    One that stands for several seeds of a row is one, and one of several rows is read once.
    """
    read: dict[CellFolder, tuple[str, str, float | None]] = {}
    reached = []
    cells = distinct_cells(plan)
    present = {cell.folder() for _, cell in cells}
    added = {each.folder(): (f"{REFERENCE} beside {row}", each) for row, cell in cells if (each := cell.reference())}
    cells += [each for folder, each in added.items() if folder not in present]
    for row, cell in cells:
        folder = cell.folder()
        if folder not in read:
            reading = read_cell(cell)
            read[folder] = reading.status, reading.error, reading.seconds
        reached.append(State(row, cell, folder, *read[folder]))
    return reached


def plan_table(plan: Plan) -> RichTable:
    """Every cell of a plan with its status, and the time that the others will take."""
    reached = states(plan)
    printed = narrow_table(f"{plan.experiment.name}: {len(reached)} cells", literal(remaining_time(reached)))
    printed.add_column("cell", no_wrap=True)
    printed.add_column("row", overflow="fold")
    printed.add_column("source", overflow="fold")
    for heading in ("training\nseed", "order", "seed"):
        printed.add_column(heading, justify="right", no_wrap=True)
    printed.add_column("status", no_wrap=True)
    for state in reached:
        config = state.cell.config
        seeds = map(str, (config.training.seed, config.protocol.order, state.cell.seed))
        printed.add_row(*map(literal, (state.folder.hash, state.row, config.source, *seeds, state.status)))
    return printed


def remaining_time(cells: Sequence[State]) -> str:
    """The time that unfinished cells will take, from the finished ones of the same row; source training left out."""
    known: dict[str, list[float]] = {}
    for state in cells:
        if state.seconds is not None:  # a stale cell has taken as long as it will again
            known.setdefault(state.row, []).append(state.seconds)
    open_rows = [state.row for state in cells if state.status != "done"]
    if not open_rows:
        return "all cells are finished"
    total = sum(sum(known[row]) / len(known[row]) for row in open_rows if row in known)
    unknown = sum(row not in known for row in open_rows)
    text = f"{len(open_rows)} cell{'s remain' if len(open_rows) > 1 else ' remains'}: "
    if unknown == len(open_rows):
        return text + "time unknown, no cell of their rows is finished"
    more = f" and the unknown time of {unknown} cells whose rows have no finished one" if unknown else ""
    return f"{text}about {duration(total)} one after the other{more}, source training not counted"


def status_table(plan: Plan, reached: Sequence[State]) -> RichTable:
    """How many cells of every row are in each of the states."""
    counts: dict[str, dict[str, int]] = {}
    for state in reached:
        counts.setdefault(state.row, dict.fromkeys(STATES, 0))[state.status] += 1
    printed = narrow_table(f"{plan.experiment.name}: {len(reached)} cells")
    printed.add_column("row", overflow="fold")
    for status in STATES:
        printed.add_column(status, justify="right", no_wrap=True)
    for label, row in counts.items():
        printed.add_row(literal(label), *map(str, row.values()))
    printed.add_section()
    printed.add_row("all", *(str(sum(row[status] for row in counts.values())) for status in STATES))
    return printed


def failures(reached: Sequence[State]) -> list[str]:
    """A sentence per failed cell, with its error and its log."""
    return [
        f"{state.row}, source {state.cell.config.source}, seed {state.cell.seed}: {state.error} "
        f"({state.folder.path / 'run.log'})"
        for state in reached
        if state.status == "failed"
    ]
