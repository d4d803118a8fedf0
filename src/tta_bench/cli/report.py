"""Write a table, finished or not, as Markdown, CSV, LaTeX and HTML; with logger=NAME, show it there."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from tta_bench.cli._table import add_table, planned


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The table, and what is shown of it."""
    add_table(parser)
    parser.add_argument("--reference", metavar="ROW", help="row to compare with; default: that of the table")
    parser.add_argument("--metric", metavar="NAME", default="dice", help="of tta-bench list metrics; default: dice")
    parser.add_argument("--out", type=Path, help="folder to write to; default: RESULTS_ROOT/reports/TABLE")
    parser.add_argument("--panels", metavar="SOURCE", help="source domain whose predictions are shown")
    text = "an image to show; repeat for more; default: an easy, a median and a hard one"
    parser.add_argument("--image", metavar="TARGET/NAME", type=_image, action="append", help=text)


def run(parsed: argparse.Namespace) -> None:
    """Write the report and print its summary."""
    from tta_bench.metrics.base import METRICS
    from tta_bench.report.tables import build_table
    from tta_bench.report.write import summary_table, write_report
    from tta_bench.sinks.about import about_report
    from tta_bench.sinks.base import SINKS
    from tta_bench.sinks.delivery import send, unsent

    plan = planned(parsed)
    table = build_table(plan, parsed.reference, METRICS.get(parsed.metric))
    folder = parsed.out or plan.cells[0].cell.config.results_root / "reports" / plan.experiment.name
    written = write_report(table, folder, parsed.panels, parsed.image)
    Console().print(summary_table(table))
    beside = [path.name for path in written[1:] if path.parent == folder]
    loggers = plan.cells[0].cell.config.logger
    if loggers:
        send(loggers, about_report(table.name, table.protocol_hash, parsed.overrides), folder)
        for name, why in unsent(loggers, folder):
            print(f"warning: {SINKS.get(name).title} did not take the table ({why}): the same command sends it again")
    print(f"wrote {written[0]}, with {', '.join(beside)} and figures/ beside it")


def _image(text: str) -> tuple[str, str]:
    target, slash, name = text.partition("/")
    if not (target and slash and name):
        raise argparse.ArgumentTypeError(f"'{text}' names no image: write TARGET/NAME, for instance A/A_007")
    return target, name
