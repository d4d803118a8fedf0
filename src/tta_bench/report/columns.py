"""The columns of a table as text, which Markdown and LaTeX share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tta_bench.metrics.base import Metric
from tta_bench.report.model import BN_ONLY, Comparison, Row, Table
from tta_bench.report.notes import comparable_with_paper
from tta_bench.report.text import DASH, difference, mean, number, p_value


@dataclass(frozen=True)
class Column:
    """One column of text.

    Attributes:
        heading: unescaped.
        cells: one per row.
        ranks: 1 for the best, 2 for the second best, else 0; equal where the shown numbers are.
    """

    heading: str
    cells: tuple[str, ...]
    ranks: tuple[int, ...]


def ranks(values: Sequence[float | None], metric: Metric) -> tuple[int, ...]:
    """1 for the best, 2 for the second best, at two digits; of a single value nothing is best."""
    shown = [None if value is None or not math.isfinite(value) else round(value, 2) for value in values]
    if sum(value is not None for value in shown) < 2:
        return (0,) * len(values)
    order = metric.best(value for value in shown if value is not None)
    return tuple(0 if value is None or value not in order[:2] else order.index(value) + 1 for value in shown)


def mean_columns(table: Table) -> list[Column]:
    """Per source and on average: measured, and the paper's number where it has one."""
    columns = []
    for name in table.columns:
        measured = [row.result(name) for row in table.rows]
        columns.append(
            Column(name, tuple(map(mean, measured)), ranks([result.value for result in measured], table.metric))
        )
        printed = [row.paper.get(name) for row in table.rows]
        if any(value is not None for value in printed):
            columns.append(Column("paper", tuple(map(number, printed)), ranks(printed, table.metric)))
    return columns


def difference_columns(table: Table) -> list[Column]:
    """Differences with p-values, and the distance to the paper."""

    def p_holm(comparison: Comparison | None) -> str:
        return DASH if comparison is None else p_value(comparison.p_holm)

    columns = [
        _column(f"minus {table.reference} [95 %]", table, lambda row: difference(row.vs_reference)),
        _column("p (Holm)", table, lambda row: p_holm(row.vs_reference)),
        _column(f"minus {BN_ONLY} [95 %]", table, lambda row: difference(row.vs_bn_only)),
        _column("p (Holm)", table, lambda row: p_holm(row.vs_bn_only)),
    ]
    if comparable_with_paper(table):
        last = table.columns[-1]
        columns.append(_column("minus paper", table, lambda row: number(row.minus_paper.get(last), form="+")))
    return columns


def cost_columns(table: Table) -> list[Column]:
    """Time, memory and passes."""
    return [
        _column("ms per image", table, lambda row: number(row.costs.ms_per_image, 1)),
        _column("peak MB", table, lambda row: number(row.costs.peak_memory_mb, 0)),
        _column("forwards", table, lambda row: number(row.costs.forwards_per_image, 1)),
        _column("backwards", table, lambda row: number(row.costs.backwards_per_image, 1)),
    ]


def column_groups(table: Table) -> dict[str, list[Column]]:
    """Means, differences and costs, each narrow enough for a page; without columns and groups that say nothing."""
    groups = {table.metric.title: mean_columns(table)}
    for name, columns in (("differences", difference_columns(table)), ("costs", cost_columns(table))):
        groups[name] = [column for column in columns if any(cell != DASH for cell in column.cells)]
    return {name: group for name, group in groups.items() if group}


def _column(heading: str, table: Table, text: Callable[[Row], str]) -> Column:
    return Column(heading, tuple(text(row) for row in table.rows), (0,) * len(table.rows))
