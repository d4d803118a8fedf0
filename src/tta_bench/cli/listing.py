"""What ``tta-bench list`` shows."""

from __future__ import annotations

import inspect
import re

from rich import box
from rich.markup import escape
from rich.table import Table

from tta_bench.launch.experiment_files import heading, read_experiments
from tta_bench.launch.paths import CONFIG_DIR
from tta_bench.methods.base import METHODS
from tta_bench.objectives.base import OBJECTIVES


def listing(what: str) -> Table:
    """A table of ``methods``, ``objectives``, ``data`` or ``experiments``."""
    return {"methods": _methods, "objectives": _objectives, "data": _data, "experiments": _experiments}[what]()


def _table(*columns: str) -> Table:
    """A table for 80 columns: the first column, the name, is never broken."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    return table


def _methods() -> Table:
    """From the cards of the classes; broken plug-ins are named with their error."""
    table = _table("method", "adapts", "needs", "passes", "paper (licence of its code)")
    table.caption = "passes: images forward + passes backward, per test image"
    for name in METHODS.names():
        method = METHODS.get(name)
        card = method.card
        needs = [
            *(["source statistics"] if card.needs_source_statistics else []),
            *(["gradients"] if card.needs_gradients else []),
            *(f"{branch} branch" for branch in method.branches(method.Options())),
        ]
        what = card.adapts.replace(" of normalisation", "").replace("normalisation ", "")
        passes = f"{card.forwards} + {card.backwards}"
        table.add_row(*map(escape, (name, what, ", ".join(needs), passes, f"{card.paper} ({card.licence})")))
    for name, error in METHODS.broken_plugins.items():
        table.add_row(f"[red]{escape(name)}[/red]", escape(f"plug-in cannot be imported: {error}"))
    return table


def methods_page() -> str:
    """The table of ``docs/methods/README.md``, in Markdown."""
    lines = [
        "# Methods",
        "",
        "Made from the classes by `tta-bench list methods --markdown`. Forwards are images through the network per",
        "test image, the prediction included. The licence is that of the authors' code, of which nothing is copied.",
        "",
        "| method | adapts | statistics of the | source statistics | branch | forwards | backwards | paper | licence |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in METHODS.names():
        method = METHODS.get(name)
        card = method.card
        cells = (
            f"[`{name}`]({name}.md)",
            card.adapts,
            card.statistics,
            "needed" if card.needs_source_statistics else "",
            ", ".join(method.branches(method.Options())),
            card.forwards,
            card.backwards,
            card.paper,
            card.licence,
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _objectives() -> Table:
    table = _table("objective", "what it is")
    for name in OBJECTIVES.names():
        first_line = (inspect.getdoc(OBJECTIVES.get(name)) or "").partition("\n")[0]
        table.add_row(name, escape(re.sub(r":? ``\[.*?\]``|`", "", first_line)))
    return table


def _data() -> Table:
    table = _table("data", "what it is")
    for path in sorted((CONFIG_DIR / "data").glob("*.yaml")):
        table.add_row(path.stem, escape(heading(path.read_text())))
    return table


def _experiments() -> Table:
    table = _table("experiment", "what it is", "rows", "sweeps over")
    for name, experiment in read_experiments().items():
        swept = {"source": "all", **experiment.sweep}
        swept.pop("model.branches", None)
        rows = len(experiment.rows) - len(experiment.controls)
        table.add_row(
            name,
            escape(experiment.description),
            f"{rows} + {len(experiment.controls)}",
            escape("\n".join(f"{key}: {value.replace(',', ', ')}" for key, value in swept.items())),
        )
    table.caption = "rows: of the table + controls (no_adapt, bn_only) that it does not list itself"
    return table
