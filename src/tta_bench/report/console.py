"""The table that a run prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tta_bench.cell import Cell, Result
from tta_bench.metrics.base import METRICS, Metric
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

    table = Table(
        box=box.SIMPLE_HEAD,
        title=literal(f"{metric.in_unit}, source {summary['source']}, seed {summary['seed']}"),
        caption=f"mean of {len(classes)} classes; each of them: summary.json" if len(classes) > CLASSES_SHOWN else None,
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )
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
        label: list[Text | str] = [
            literal(mean if place is None else place),
            str(sum(target["n"] for target in _targets(summary, place))),
        ]
        for one in [*([reference] if reference else []), result]:
            values = [_mean([target[column] for target in _targets(one[0], place)]) for column in columns]
            seconds = one[0]["seconds_per_image"] if place is None else one[0]["targets"][place]["seconds_per_image"]
            numbers: list[Text | str] = [f"{value:.2f}" for value in values]
            if reference is not None:
                numbers.append(literal(_difference(metric.name, result, reference, place) if one is result else ""))
            table.add_row(*label, one[0]["method"], *numbers, f"{seconds:.3f}")
            label = ["", ""]
    return table


def _targets(summary: Mapping[str, Any], place: str | None) -> list[Mapping[str, Any]]:
    """The summary of one target, or of all."""
    return [target for name, target in summary["targets"].items() if place in (None, name)]


def _difference(metric: str, result: Result, reference: Result, place: str | None) -> str:
    """The paired difference on one target, or on all."""
    before = {(row["target"], row["index"]): float(row[metric] or "nan") for row in reference[1]}
    pairs: dict[str, list[float]] = {}
    for row in result[1]:
        if place in (None, row["target"]):
            value = float(row[metric] or "nan")
            pairs.setdefault(row["target"], []).append(value - before[row["target"], row["index"]])
    difference = paired_difference(list(pairs.values()))
    if difference.low != difference.low:  # NaN: too few images to resample
        return f"{difference.mean:+.2f}"
    return f"{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
