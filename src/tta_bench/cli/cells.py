"""List the cells of a results folder, finished or not: hash, method, what differs from the defaults, Dice, status."""

from __future__ import annotations

import argparse

from rich.console import Console

from tta_bench.cli._stored import add_where, chosen, results_root
from tta_bench.runtime.imports import for_good


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which cells, and how."""
    parser.add_argument("overrides", nargs="*", metavar="results_root=DIR", help="the results folder")
    add_where(parser)
    parser.add_argument("--csv", action="store_true", help="as CSV, with everything")


def run(parsed: argparse.Namespace) -> None:
    """Print the list."""
    with for_good():
        from tta_bench.launch.composition import composer
        from tta_bench.report.listing import cells_csv, cells_table, listed

    cells = chosen(results_root(parsed.overrides), parsed.where)
    with composer() as hydra:
        found = listed(cells, hydra)
    if parsed.csv:
        print(cells_csv(found), end="")
    else:
        console = Console()
        console.print(cells_table(found, console.width))
