"""Send finished runs to the dashboards that lack them, those that were kept offline included."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tta_bench.errors import UserError, shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose runs."""
    text = "folder of all results, also as results_root=DIR; default: outputs"
    parser.add_argument("results_root", metavar="RESULTS_ROOT", nargs="?", type=_root, default="outputs", help=text)


def run(parsed: argparse.Namespace) -> None:
    """Send, and say what is left; exit code 1 if something is."""
    from tta_bench.sinks.sync import synchronise

    root = parsed.results_root
    if not root.is_dir():
        raise UserError(f"RESULTS_ROOT={root} is no folder: name that of your results, results_root of the runs")
    arrived, left = synchronise(root)
    print(f"{arrived} run{'' if arrived == 1 else 's'} sent" + ("" if left else ", nothing is left"))
    for sentence in left:
        print(f"left: {shown(sentence)}", file=sys.stderr)
    if left:
        sys.exit(1)


def _root(text: str) -> Path:
    return Path(text.removeprefix("results_root="))
