"""What the subcommands about a table of results share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from tta_bench.launch.experiments import Plan


def add_table(parser: argparse.ArgumentParser) -> None:
    """The table, and what is changed of it."""
    parser.add_argument("table", metavar="TABLE", help="a name of tta-bench list experiments, or PATH.yaml")
    text = "as for a run: data=folder data.root=DIR results_root=DIR …"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)
    parser.add_argument("--config-dir", metavar="DIR", help="as for a run: more YAML files, experiments/ among them")


def planned(parsed: argparse.Namespace) -> Plan:
    """The cells of the table.

    Raises:
        UserError: an unknown table, or every fault of the overrides.
    """
    from tta_bench.launch.experiments import plan

    return plan(parsed.table, of_what_is_there(parsed.overrides), parsed.config_dir)


def of_what_is_there(overrides: Sequence[str]) -> Sequence[str]:
    """The overrides of a table, of which what is finished is finished.

    Raises:
        UserError: ``force`` is among them.
    """
    from tta_bench.errors import UserError

    if any(word.lstrip("+").startswith("force=") for word in overrides):
        raise UserError("force= is for a run, which computes finished cells again: leave it out here")
    return overrides


def searched(plan: Plan) -> Table | None:
    """The searches of an experiment that tunes, finished or not; None for one that has cells."""
    from tta_bench.launch.experiments import searches
    from tta_bench.report.search import search_table

    found = searches(plan)
    return search_table(found) if found else None
