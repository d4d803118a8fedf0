"""List the cells of a table, which of them are finished, and how long the others will take."""

from __future__ import annotations

import argparse

from rich.console import Console

from tta_bench.cli._table import add_table as add_arguments
from tta_bench.cli._table import planned, searched
from tta_bench.runtime.imports import for_good

__all__ = ["add_arguments", "run"]


def run(parsed: argparse.Namespace) -> None:
    """Print the cells, or the searches of an experiment that tunes."""
    with for_good():
        from tta_bench.report.write import plan_table

    plan = planned(parsed)
    Console().print(searched(plan) or plan_table(plan))
