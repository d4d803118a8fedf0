"""The table that a run prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tta_bench.cell import Cell, Result
from tta_bench.metrics.base import METRICS, Metric
from tta_bench.report import text
from tta_bench.report.statistics import paired_difference
from tta_bench.report.warnings import run_warnings
from tta_bench.runtime.names import distinct, literal
from tta_bench.sinks.about import changes

CLASSES_SHOWN = 2
"""With more classes the table has their mean alone, to fit into 80 columns, and a second one has each class."""


def show(console: Console, cell: Cell, result: Result, reference: Result | None) -> None:
    """Print what is weak about the cell, its table of each metric that was asked for, and the folder of its results."""
    for panel in warning_box(run_warnings(result, cell.config.diagnostics)):
        console.print(panel)
    for name in cell.config.metrics:
        metric = METRICS.get(name)
        console.print(cell_table(metric, result, reference, list(changes(cell.config))))
        if len(_classes(metric, result)) > CLASSES_SHOWN:
            console.print(class_table(metric, result, reference))
    console.print(f"results: {cell.folder().path}", soft_wrap=True, markup=False, highlight=False)


def _classes(metric: Metric, result: Result) -> list[str]:
    """The columns of the classes."""
    return [key for key in next(iter(result[0]["targets"].values())) if key.startswith(f"{metric.name}_")]


def class_table(metric: Metric, result: Result, reference: Result | None) -> Table:
    """Every class on every target, with and without adaptation; arguments as of :func:`cell_table`."""
    shown = [each for each in (reference, result) if each is not None]
    table = narrow_table(f"{metric.in_unit} of each class")
    for heading in ("target", "class"):
        table.add_column(heading, overflow="fold")
    for summary, _ in shown:
        table.add_column(literal(summary["method"]), justify="right", no_wrap=True)
    if len(shown) > 1:
        table.add_column("difference", justify="right", no_wrap=True)
    for target in result[0]["targets"]:
        table.add_section()
        label = target
        for column in _classes(metric, result):
            values = [summary["targets"][target][column] for summary, _ in shown]
            gain = [text.number(values[1] - values[0], form="+")] if len(values) > 1 else []
            table.add_row(
                *map(literal, (label, column.removeprefix(f"{metric.name}_"), *map(text.number, values), *gain))
            )
            label = ""
    return table


def cell_table(metric: Metric, result: Result, reference: Result | None, differs: Sequence[str] = ()) -> Table:
    """Per target and on average: a metric per class with and without adaptation, their difference, and the time.

    Args:
        metric: what is shown.
        result: of the cell.
        reference: of ``no_adapt`` with the same source model; None if the cell is that itself.
        differs: what is not as by default, as ``KEY=VALUE``.
    """
    summary, _ = result
    classes = _classes(metric, result)
    shown = classes if 1 < len(classes) <= CLASSES_SHOWN else []
    columns = [*shown, metric.name]
    headings = [*(key.removeprefix(f"{metric.name}_") for key in shown), metric.title if len(classes) == 1 else "mean"]

    caption = f"mean of {len(classes)} classes" if len(classes) > CLASSES_SHOWN else None
    settings = f", {' '.join(differs)}" if differs else ""
    table = narrow_table(f"{metric.in_unit}, source {summary['source']}, seed {summary['seed']}{settings}", caption)
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


def warning_box(lines: Sequence[str]) -> list[Panel]:
    """The box with warnings, one below the other; none without any."""
    items = [Text.assemble("! ", literal(line)) for line in lines]
    return [Panel(Group(*items), title="warnings", title_align="left", box=box.SQUARE)] if items else []


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
