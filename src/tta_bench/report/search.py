"""What searches have found, or how far they are, as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from tta_bench.report.console import narrow_table
from tta_bench.report.text import number
from tta_bench.runtime.names import literal
from tta_bench.runtime.values import typed
from tta_bench.search.study import Study


def search_table(studies: Sequence[Study]) -> Table:
    """A line per search: Dice on shifted source images with the default and with the best options, and these."""
    found = [study.outcome() for study in studies]
    done = sum(outcome is not None for outcome in found)
    caption = literal(f"in {studies[0].folder.parent}; use them in a table with method.preset=tuned")
    table = narrow_table(f"searches on source images: {done} of {len(found)} finished", caption if done else None)
    table.add_column("method", no_wrap=True)
    table.add_column("source", overflow="fold")
    for heading in ("trials\n(failed)", "default\nDice", "tuned\nDice"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("tuned options", overflow="fold")
    table.add_column("search", no_wrap=True)
    for study, outcome in zip(studies, found, strict=True):
        name, source = literal(study.config.method["name"]), literal(study.config.source)
        table.add_row(name, source, *_numbers(study, outcome), literal(study.folder.name))
    return table


def _numbers(study: Study, outcome: dict[str, Any] | None) -> list[Text | str]:
    if outcome is None:
        begun = "not finished" if study.folder.is_dir() else "not begun"
        return [str(study.trials), *[literal(number(None))] * 2, begun]
    trials = f"{outcome['budget']} ({outcome['failed']})" if outcome["failed"] else str(outcome["budget"])
    dice = [literal(number(outcome["dice"][key])) for key in ("default", "tuned")]
    changed = {key: value for key, value in outcome["options"].items() if value != outcome["defaults"][key]}
    text = " ".join(f"{key}={_rounded(value)}" for key, value in changed.items())
    return [trials, *dice, literal(text or ("the defaults" if study.space else "nothing to search"))]


def _rounded(value: Any) -> str:
    """Three digits are enough to look at; the outcome has all."""
    return typed(float(f"{value:.3g}") if isinstance(value, float) else value)
