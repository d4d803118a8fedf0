"""Count the finished, stale, running, interrupted, failed and missing cells of a table."""

from __future__ import annotations

import argparse

from rich.console import Console

from tta_bench.cli._table import add_table as add_arguments
from tta_bench.cli._table import planned
from tta_bench.errors import shown

__all__ = ["add_arguments", "run"]


def run(parsed: argparse.Namespace) -> None:
    """Print the counts, and why cells have failed."""
    from tta_bench.report.write import failures, status_table

    plan = planned(parsed)
    Console().print(status_table(plan))
    for sentence in failures(plan):
        print(f"failed: {shown(sentence)}")
