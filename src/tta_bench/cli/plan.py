"""List the cells of a table, which of them are finished, and how long the others will take."""

from __future__ import annotations

import argparse

from rich.console import Console

from tta_bench.cli._table import add_table as add_arguments
from tta_bench.cli._table import planned

__all__ = ["add_arguments", "run"]


def run(parsed: argparse.Namespace) -> None:
    """Print the cells."""
    from tta_bench.report.write import plan_table

    Console().print(plan_table(planned(parsed)))
