"""Count the finished, stale, running, interrupted, failed and missing cells of a table."""

from __future__ import annotations

import argparse

from rich.console import Console

from tta_bench.cli._table import add_table as add_arguments
from tta_bench.cli._table import planned, searched
from tta_bench.errors import shown
from tta_bench.runtime.imports import for_good

__all__ = ["add_arguments", "run"]


def run(parsed: argparse.Namespace) -> None:
    """Print the counts, and why cells have failed."""
    with for_good():
        from tta_bench.report.write import failures, states, status_table

    plan = planned(parsed)
    if (table := searched(plan)) is not None:
        Console().print(table)
        return
    found = states(plan)
    Console().print(status_table(plan, found))
    for sentence in failures(found):
        print(f"failed: {shown(sentence)}")
