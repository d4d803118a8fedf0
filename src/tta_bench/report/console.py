"""The table that a run prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tta_bench.cell import Cell, Result
from tta_bench.metrics.base import METRICS, Metric
from tta_bench.report import text
from tta_bench.report.cells import learned_from
from tta_bench.report.checks import in_unit_of
from tta_bench.report.statistics import paired_difference
from tta_bench.report.warnings import run_warnings
from tta_bench.runtime.names import distinct, literal
from tta_bench.sinks.about import changes

CLASSES_SHOWN = 2
"""With more classes the table has their mean alone, to fit into 80 columns, and a second one has each class."""


def show(console: Console, cell: Cell, result: Result, reference: Result | None) -> None:
    """Print what is weak about the cell, its table of each metric that was asked for, and the folder of its results."""
    for panel in warning_box(run_warnings(result, cell.config, reference)):
        console.print(panel)
    for name in cell.config.metrics:
        metric = in_unit_of(METRICS.get(name), result[0])
        console.print(cell_table(metric, result, reference, learned_from(cell.config), list(changes(cell.config))))
        if len(_classes(metric, result)) > CLASSES_SHOWN:
            console.print(class_table(metric, result, reference))
    console.print(f"results: {cell.folder().path}", soft_wrap=True, markup=False, highlight=False)


def _classes(metric: Metric, result: Result) -> list[str]:
    """The columns of the classes."""
    return [key for key in next(iter(result[0]["targets"].values())) if key.startswith(f"{metric.name}_")]


def class_table(metric: Metric, result: Result, reference: Result | None) -> Table:
    """Every class on every target, with and without adaptation; arguments as of :func:`cell_table`."""
    shown = [each for each in (reference, result) if each is not None]
    table = narrow_table(f"{metric.heading} of each class")
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
            gain = [text.number(values[1] - values[0], metric.digits, "+")] if len(values) > 1 else []
            told = (text.number(value, metric.digits) for value in values)
            table.add_row(*map(literal, (label, column.removeprefix(f"{metric.name}_"), *told, *gain)))
            label = ""
    return table


def cell_table(
    metric: Metric, result: Result, reference: Result | None, learned: str, differs: Sequence[str] = ()
) -> Table:
    """Per target and on average: a metric per class with and without adaptation, their difference, and the time.

    Args:
        metric: what is shown.
        result: of the cell.
        reference: of ``no_adapt`` with the same source model; None if the cell is that itself.
        learned: what its models have learned from, in words.
        differs: what is not as by default, as ``KEY=VALUE``.
    """
    summary, _ = result
    classes = _classes(metric, result)
    shown = classes if 1 < len(classes) <= CLASSES_SHOWN else []
    columns = [*shown, metric.name]
    headings = [*(key.removeprefix(f"{metric.name}_") for key in shown), metric.title if len(classes) < 2 else "mean"]

    told = [f"mean of {len(classes)} classes"] * (len(classes) > CLASSES_SHOWN)
    told.append(f"scored {text.SCORED_AT[summary['protocol'].get('score_at', 'network')]}")
    caption = "; ".join([*told, *per_case(metric, result, reference)])
    settings = f", {' '.join(differs)}" if differs else ""
    table = narrow_table(f"{metric.heading}, {learned}, seed {summary['seed']}{settings}", caption)
    table.add_column("target", overflow="fold")
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("method", overflow="fold")  # is as long as a package calls its own
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
            means = (text.number(_known_mean(values), metric.digits) for values in values_of)
            seconds = (numbers if place is None else numbers["targets"][place])["seconds_per_image"]
            gain: list[Text | str] = []
            if reference is not None:
                gain = [_difference(metric, result, reference, place) if printed is result else ""]
            table.add_row(*label, numbers["method"], *means, *gain, f"{seconds:.3f}")
            label = ["", ""]
    return table


def per_case(metric: Metric, result: Result, reference: Result | None) -> list[str]:
    """Dice over whole volumes, for the caption: one clause, or none where images are no slices."""
    key = f"case_{metric.name}"
    shown = [each[0] for each in (reference, result) if each is not None]
    cases = {name: entry["cases"] for name, entry in result[0]["targets"].items() if key in entry}
    if not cases or any(key not in summary["targets"][name] for summary in shown for name in cases):
        return []
    means = [sum(summary["targets"][name][key] for name in cases) / len(cases) for summary in shown]
    values = ", ".join(f"{summary['method']} {mean:.2f}" for summary, mean in zip(shown, means, strict=True))
    return [f"over whole cases ({sum(cases.values())}): {values}"]


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


class ScoreTable(Table):
    """Rows of scores below each other: a label is broken within a word only where numbers would be cut otherwise.

    Where words and the least widths of all other columns do not fit side by side, these move together.
    """

    def __init__(self, title: str, caption: str | Text | None = None) -> None:
        form = {"box": box.SIMPLE_HEAD, "pad_edge": False, "show_edge": False, "collapse_padding": True}
        super().__init__(title=literal(title), caption=caption, **form)  # type: ignore[arg-type]

    def add_score_columns(
        self, columns: Sequence[str], reference: str, *, has_settings: bool, has_presets: bool
    ) -> None:
        """The label of a row, what it sees, where its options are from, its scores, and what it gains."""
        self.add_column("row", overflow="fold")
        if has_settings:
            self.add_column("setting", min_width=8, overflow="fold")
        if has_presets:
            self.add_column("options", min_width=8, no_wrap=True)
        for column in columns:
            self.add_column(literal(column), justify="right", min_width=5, overflow="fold")
        self.add_column(Text.assemble("minus\n", literal(reference)), justify="right", min_width=6, overflow="fold")
        self.add_column("p\n(Holm)", justify="right", min_width=6, no_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Share out the width that there is."""
        first, *others = self.columns
        words = max((cell_len(word) for label in first.cells for word in str(label).split()), default=1)
        room = options.max_width - sum(column.min_width or 0 for column in others)
        gap = 2 if words + 2 * len(others) <= room else 1
        self.padding = (0, gap - 1)
        left = max(1, room - gap * len(others))
        first.min_width, first.width = words, left if left < words else None
        yield from super().__rich_console__(console, options)


def _targets(summary: Mapping[str, Any], place: str | None) -> list[Mapping[str, Any]]:
    """The summary of one target, or of all."""
    return [target for name, target in summary["targets"].items() if place in (None, name)]


def _known_mean(values: Sequence[float]) -> float | None:
    """Over what has a value; None where nothing has one."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else None


def _difference(metric: Metric, result: Result, reference: Result, place: str | None) -> Text:
    """The paired difference on one target, or on all, of the images that have a value in both."""
    before = {(row["target"], row["index"]): float(row[metric.name] or "nan") for row in reference[1]}
    pairs: dict[str, list[float]] = {}
    for row in result[1]:
        if place in (None, row["target"]):
            gain = float(row[metric.name] or "nan") - before[row["target"], row["index"]]
            if math.isfinite(gain):
                pairs.setdefault(row["target"], []).append(gain)
    return literal(text.difference(paired_difference(list(pairs.values())) if pairs else None, metric.digits))
