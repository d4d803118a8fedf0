"""Remove what no experiment needs: leftovers, unfinished cells and unused models; shown first, after asking."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from tta_bench.cli._stored import add_where, chosen, results_root

if TYPE_CHECKING:
    from tta_bench.cell import Cell
    from tta_bench.launch.cleaning import Item


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What else is needed, and what else goes."""
    text = "experiments of your own whose cells are needed too, names or PATH.yaml; overrides as for their runs"
    parser.add_argument("overrides", nargs="*", metavar="TABLE|KEY=VALUE", help=text)
    parser.add_argument("--stale", action="store_true", help="remove finished cells whose code has changed since, too")
    add_where(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(parsed: argparse.Namespace) -> None:
    """Show what can go, ask, and remove it."""
    from tta_bench.launch.cleaning import needed_cells, remove, unneeded

    def needed() -> list[Cell]:
        print("planning the experiments, to know what they need ...", file=sys.stderr)
        return needed_cells(root, words, overrides)

    words = [word for word in parsed.overrides if "=" not in word]
    overrides = [word for word in parsed.overrides if "=" in word]
    root = results_root([word for word in overrides if word.startswith("results_root=")])
    where = [*parsed.where, *(["status=stale"] if parsed.stale else [])]
    told = {cell.folder().hash for cell in chosen(root, where, may_be_empty=parsed.stale)} if where else set()
    items = unneeded(root, needed, told, f"cell with {' '.join(where)}")
    if not items:
        print(f"nothing to remove in {root}")
        return
    Console().print(_table(items))
    for item in items:
        print(item.path)
    if not parsed.yes and not _agreed():
        print("nothing was removed; --yes does not ask")
        return
    gone = [*remove(root, items)]
    print(f"removed {len(gone)} of {len(items)}")


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input("remove all this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _table(items: list[Item]) -> Table:
    """How much of what."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("what", "number", "MB"):
        table.add_column(heading, justify="left" if heading == "what" else "right", overflow="fold")
    for why in dict.fromkeys(item.why for item in items):
        own = [item for item in items if item.why == why]
        table.add_row(why, str(len(own)), f"{sum(item.size for item in own) / 1e6:.1f}")
    return table
