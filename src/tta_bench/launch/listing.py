"""What ``tta-bench list`` shows."""

from __future__ import annotations

import inspect

import yaml
from rich import box
from rich.table import Table

from tta_bench.launch.paths import CONFIG_DIR, EXPERIMENTS_DIR
from tta_bench.methods.base import METHODS
from tta_bench.objectives.base import OBJECTIVES


def listing(what: str) -> Table:
    """A table of ``methods``, ``objectives``, ``data`` or ``experiments``."""
    return {"methods": _methods, "objectives": _objectives, "data": _data, "experiments": _experiments}[what]()


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right" if column in ("forwards", "backwards") else "left")
    return table


def _methods() -> Table:
    """From the cards of the classes; broken plug-ins are named with their error."""
    table = _table("method", "adapts", "statistics of the", "forwards", "backwards", "paper")
    for name in METHODS.names():
        card = METHODS.get(name).card
        table.add_row(name, card.adapts, card.statistics, str(card.forwards), str(card.backwards), card.paper)
    for name, error in METHODS.broken_plugins.items():
        table.add_row(f"[red]{name}[/red]", f"plug-in cannot be imported: {error}")
    return table


def _objectives() -> Table:
    table = _table("objective", "what it is")
    for name in OBJECTIVES.names():
        table.add_row(name, _first_line(inspect.getdoc(OBJECTIVES.get(name)) or ""))
    return table


def _data() -> Table:
    table = _table("data", "what it is")
    for path in sorted((CONFIG_DIR / "data").glob("*.yaml")):
        table.add_row(path.stem, _heading(path.read_text()))
    return table


def _experiments() -> Table:
    table = _table("experiment", "what it is", "sweeps over")
    for path in sorted(EXPERIMENTS_DIR.glob("*.yaml")):
        params = yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"]
        table.add_row(
            path.stem, _heading(path.read_text()), "\n".join(f"{k.lstrip('+')}: {v}" for k, v in params.items())
        )
    return table


def _heading(text: str) -> str:
    """The comment at the head of a YAML file."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("# ") or line.startswith("# @"):
            break
        lines.append(line[2:])
    return " ".join(lines)


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
