"""What the subcommands about cells in a results folder share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tta_bench.cell import Cell

WHERE = "only cells with these values, such as method=tent,sar,source=D; keys as in config.yaml, and status; repeatable"


def add_where(parser: argparse.ArgumentParser) -> None:
    """A filter of cells."""
    parser.add_argument("--where", metavar="KEY=VALUE,…", action="append", default=[], help=WHERE)


def results_root(overrides: Sequence[str]) -> Path:
    """The results folder that ``results_root=DIR`` names, or the default one.

    Raises:
        UserError: other words.
    """
    from tta_bench.errors import UserError
    from tta_bench.launch.check import compose_data

    others = [word for word in overrides if not word.startswith("results_root=")]
    if others:
        raise UserError([f"'{word}': cells that exist have their settings; results_root=DIR alone" for word in others])
    return compose_data(overrides)[1].expanduser()


def chosen(root: Path, where: Sequence[str], *, may_be_empty: bool = False) -> list[Cell]:
    """The cells of a results folder that filters let through, and a warning for each that cannot be read.

    Raises:
        UserError: a filter by a key that no cell has, or nothing is let through where that may not be.
    """
    from tta_bench.errors import UserError, shown
    from tta_bench.launch.stored import check_keys, facts, fits, parse_where, stored_cells
    from tta_bench.report.cells import read_cell

    filters = parse_where(where)
    cells, unreadable = stored_cells(root)
    for fault in unreadable:
        print(f"warning: {shown(fault)}")
    known = [facts(cell) for cell in cells]
    if cells:
        check_keys(filters, {"status", *(key for each in known for key in each)})
    rest = {key: patterns for key, patterns in filters.items() if key != "status"}
    found = [cell for cell, of in zip(cells, known, strict=True) if fits(rest, of)]
    if "status" in filters:
        statuses = {"status": filters["status"]}
        found = [cell for cell in found if fits(statuses, {"status": read_cell(cell).status})]
    if not found and not may_be_empty:
        raise UserError(
            f"no cell in {root / 'cells'}{' is so' if where else ''}: 'tta-bench cells' lists what there is"
        )
    return found
