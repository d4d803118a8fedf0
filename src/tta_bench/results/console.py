"""The table that a run prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from tta_bench.results.statistics import paired_difference

Rows = Sequence[Mapping[str, str]]
"""Rows of ``per_image.csv``."""

Result = tuple[Mapping[str, Any], Rows]
"""A cell's summary and its rows."""


def cell_table(result: Result, reference: Result | None) -> Table:
    """Per target and on average: Dice per class with and without adaptation, their difference, and the time.

    Args:
        result: of the cell.
        reference: of ``no_adapt`` with the same source model; None if the cell is that itself.
    """
    summary, _ = result
    classes = [key for key in next(iter(summary["targets"].values())) if key.startswith("dice_")]
    columns = [*classes, "dice"] if len(classes) > 1 else ["dice"]
    headings = [*(key.removeprefix("dice_") for key in classes), "mean"] if len(classes) > 1 else ["Dice"]

    table = Table(box=box.SIMPLE_HEAD, title=f"Dice in percent, source {summary['source']}, seed {summary['seed']}")
    table.add_column("target")
    table.add_column("n", justify="right")
    table.add_column("method")
    for heading in [*headings, "difference [95 % interval]", "s / image"]:
        table.add_column(heading, justify="right")

    places = [*summary["targets"], None] if len(summary["targets"]) > 1 else [*summary["targets"]]
    for place in places:
        table.add_section()
        label = [str(place or "mean"), str(sum(target["n"] for target in _targets(summary, place)))]
        for one in [*([reference] if reference else []), result]:
            dice = [_mean([target[column] for target in _targets(one[0], place)]) for column in columns]
            seconds = one[0]["seconds_per_image"] if place is None else one[0]["targets"][place]["seconds_per_image"]
            compared = reference is not None and one is result
            table.add_row(
                *label,
                one[0]["method"],
                *(f"{value:.2f}" for value in dice),
                _difference(result, reference, place) if compared and reference else "",
                f"{seconds:.3f}",
            )
            label = ["", ""]
    return table


def _targets(summary: Mapping[str, Any], place: str | None) -> list[Mapping[str, Any]]:
    """The summary of one target, or of all."""
    return [target for name, target in summary["targets"].items() if place in (None, name)]


def _difference(result: Result, reference: Result, place: str | None) -> str:
    """The paired difference on one target, or on all."""
    before = {(row["target"], row["index"]): float(row["dice"]) for row in reference[1]}
    pairs: dict[str, list[float]] = {}
    for row in result[1]:
        if place in (None, row["target"]):
            pairs.setdefault(row["target"], []).append(float(row["dice"]) - before[row["target"], row["index"]])
    difference = paired_difference(list(pairs.values()))
    return f"{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
