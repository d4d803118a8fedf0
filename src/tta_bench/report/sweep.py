"""One table of any cells, as a sweep prints it at its end and ``tta-bench report --last`` later."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.console import Group as RenderGroup
from rich.table import Table as RichTable

from tta_bench.cell import Cell
from tta_bench.errors import UserError, shown
from tta_bench.launch.experiments import Plan
from tta_bench.launch.stored import with_references
from tta_bench.launch.sweeps import Group, groups
from tta_bench.metrics.base import Metric
from tta_bench.metrics.dice import dice_score
from tta_bench.report.console import ScoreTable, warning_box
from tta_bench.report.model import Table
from tta_bench.report.tables import build_table
from tta_bench.report.text import narrow_mean, number, p_value
from tta_bench.report.warnings import warnings
from tta_bench.report.write import audit_tables, summary_table, transfer_tables
from tta_bench.runtime.names import literal


def summary(tables: Sequence[tuple[str, Table]]) -> RenderableType:
    """Their warnings in a box, and the summaries of tables below each other, each compared within itself alone.

    Args:
        tables: each with what tells it from the others, which stands behind its labels.
    """
    weak = {settings: warnings(table) for settings, table in tables}
    common = [line for line in next(iter(weak.values())) if all(line in lines for lines in weak.values())]
    own = [f"{settings}: {line}" for settings, lines in weak.items() for line in lines if line not in common]
    more = [printed for _, table in tables for printed in (*transfer_tables(table), *audit_tables(table))]
    return RenderGroup(*warning_box([*common, *own]), _combined(tables), *more)


def _combined(tables: Sequence[tuple[str, Table]]) -> RichTable:
    if len(tables) == 1:
        return summary_table(tables[0][1])
    columns = list(dict.fromkeys(column for _, table in tables for column in table.columns))
    references = list(dict.fromkeys(table.reference for _, table in tables))
    missing = sum(len(table.missing) for _, table in tables)
    gaps = f", {missing} cells missing" if missing else ""
    name, metric = tables[0][1].name.rpartition("_")[0], tables[0][1].metric
    combined = ScoreTable(f"{name}: {metric.heading}{gaps}")
    presets = any(table.has_presets for _, table in tables)
    told = any(table.has_settings for _, table in tables)
    reference = references[0] if len(references) == 1 else "reference"
    combined.add_score_columns(columns, reference, has_settings=told, has_presets=presets)
    for settings, table in tables:
        combined.add_section()
        for row in table.rows:
            digits, comparison = metric.digits, row.vs_reference
            values = [narrow_mean(row.result(each), digits) if each in table.columns else "" for each in columns]
            gain = ("", "")
            if comparison is not None:
                gain = number(comparison.mean, digits, "+"), p_value(comparison.p_holm)
            options = [row.options] if presets else []
            seen = [row.setting_told] if told else []
            combined.add_row(literal(f"{row.label} {settings}"), *seen, *options, *values, *map(literal, gain))
    return combined


def show_sweep(console: Console, plan: Plan | None, cells: Sequence[Cell]) -> None:
    """Print the one table of a sweep that has ended; why there is none, where its cells cannot be compared.

    Args:
        console: to print to.
        plan: of an experiment, whose rows are named; None for any other sweep.
        cells: of the sweep.
    """
    try:
        whole = [Group("", plan, plan.experiment.name)] if plan is not None else None
        found = whole or groups(with_references(cells), "sweep", "")
        console.print(summary(tables(found)))
    except UserError as error:
        for fault in error.faults:
            console.print(literal(f"no table of all cells: {shown(fault)}"), soft_wrap=True)


def with_finished_references(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, and those without adaptation that they are compared with as far as they are finished."""
    return [cell for cell in with_references(cells) if cell in cells or cell.finished() is not None]


def tables(
    found: Sequence[Group], reference: str | None = None, metric: Metric = dice_score
) -> list[tuple[str, Table]]:
    """The tables of groups of cells; arguments as of :func:`tta_bench.report.tables.build_table`."""
    return [(group.settings, build_table(group.plan, reference, metric)) for group in found]
