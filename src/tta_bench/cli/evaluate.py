"""Score finished cells by further metrics, from the predictions they have saved; nothing is adapted again."""

from __future__ import annotations

import argparse

from tta_bench.cli._stored import add_asked, asked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which metrics of which cells."""
    parser.add_argument(
        "--metrics", metavar="NAME,…", required=True, help="of tta-bench list metrics, such as hd95,assd"
    )
    add_asked(parser)


def run(parsed: argparse.Namespace) -> None:
    """Score them, and say how many."""
    from tta_bench.errors import UserError
    from tta_bench.launch.evaluation import evaluate

    cells = [planned.cell for group in asked(parsed, "evaluated") for planned in group.plan.cells]
    outcome = evaluate(cells, parsed.metrics.split(","))
    names = " and ".join(outcome.metrics)
    print(f"cells scored by {names}: {outcome.scored}; before: {outcome.before}; unfinished: {outcome.unfinished}")
    if outcome.faults:
        raise UserError(outcome.faults)
