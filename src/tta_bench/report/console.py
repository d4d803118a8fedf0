"""The table that a run prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tta_bench.cell import Cell, Result
from tta_bench.metrics.base import METRICS, Metric
from tta_bench.report import text
from tta_bench.report.statistics import paired_difference
from tta_bench.runtime.names import distinct, literal

CLASSES_SHOWN = 2
"""With more classes the table has their mean alone, to fit into 80 columns; ``summary.json`` has all of them."""


def show(console: Console, cell: Cell, result: Result, reference: Result | None) -> None:
    """Print the cell's table of each metric that was asked for, and the folder of its results."""
    for name in cell.config.metrics:
        console.print(cell_table(METRICS.get(name), result, reference))
    console.print(f"results: {cell.folder().path}", soft_wrap=True, markup=False, highlight=False)


def cell_table(metric: Metric, result: Result, reference: Result | None) -> Table:
    """Per target and on average: a metric per class with and without adaptation, their difference, and the time.

    Args:
        metric: what is shown.
        result: of the cell.
        reference: of ``no_adapt`` with the same source model; None if the cell is that itself.
    """
    summary, _ = result
    classes = [key for key in next(iter(summary["targets"].values())) if key.startswith(f"{metric.name}_")]
    shown = classes if 1 < len(classes) <= CLASSES_SHOWN else []
    columns = [*shown, metric.name]
    headings = [*(key.removeprefix(f"{metric.name}_") for key in shown), metric.title if len(classes) == 1 else "mean"]

    caption = f"mean of {len(classes)} classes; each of them: summary.json" if len(classes) > CLASSES_SHOWN else None
    table = narrow_table(f"{metric.in_unit}, source {summary['source']}, seed {summary['seed']}", caption)
    table.add_column("target", overflow="fold")
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for heading in headings:
        table.add_column(literal(heading), justify="right", min_width=6, overflow="fold")
    if reference is not None:
        table.add_column("difference\n\\[95 % interval]", justify="right", no_wrap=True)
    table.add_column("s per\nimage", justify="right", no_wrap=True)

    mean = distinct("mean", summary["targets"])
    places = [*summary["targets"], None] if len(summary["targets"]) > 1 else [*summary["targets"]]
    for place in places:
        table.add_section()
        count = sum(target["n"] for target in _targets(summary, place))
        label: list[Text | str] = [literal(mean if place is None else place), str(count)]
        for printed in [*([reference] if reference else []), result]:
            numbers = printed[0]
            values_of = [[target[column] for target in _targets(numbers, place)] for column in columns]
            means = (f"{sum(values) / len(values):.2f}" for values in values_of)
            seconds = (numbers if place is None else numbers["targets"][place])["seconds_per_image"]
            gain: list[Text | str] = []
            if reference is not None:
                gain = [_difference(metric.name, result, reference, place) if printed is result else ""]
            table.add_row(*label, numbers["method"], *means, *gain, f"{seconds:.3f}")
            label = ["", ""]
    return table


def narrow_table(title: str, caption: str | Text | None = None) -> Table:
    """An empty table for a terminal of 80 columns."""
    return Table(
        box=box.SIMPLE_HEAD,
        title=literal(title),
        caption=caption,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )


def _targets(summary: Mapping[str, Any], place: str | None) -> list[Mapping[str, Any]]:
    """The summary of one target, or of all."""
    return [target for name, target in summary["targets"].items() if place in (None, name)]


def _difference(metric: str, result: Result, reference: Result, place: str | None) -> Text:
    """The paired difference on one target, or on all."""
    before = {(row["target"], row["index"]): float(row[metric] or "nan") for row in reference[1]}
    pairs: dict[str, list[float]] = {}
    for row in result[1]:
        if place in (None, row["target"]):
            gain = float(row[metric] or "nan") - before[row["target"], row["index"]]
            pairs.setdefault(row["target"], []).append(gain)
    return literal(text.difference(paired_difference(list(pairs.values()))))
