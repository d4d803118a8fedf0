"""Write a table of an experiment, of the last sweep or of any cells, as Markdown, CSV, LaTeX and HTML.

With ``logger=NAME`` it is shown there, too.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tta_bench.cli._stored import add_asked, asked
from tta_bench.runtime.imports import for_good

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tta_bench.report.model import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is reported, and what is shown of it."""
    add_asked(parser)
    parser.add_argument("--reference", metavar="ROW", help="row to compare with; default: that of the table")
    text = "of tta-bench list metrics, a report for each; default: dice. Others than Dice in a folder of their name"
    parser.add_argument("--metric", metavar="NAME,…", default="dice", help=text)
    text = "also by groups of images, in a folder of its name: domain, brightness, size, ita, or a column of "
    text += "data.attributes=FILE.csv"
    parser.add_argument("--by", metavar="ATTRIBUTE", help=text)
    parser.add_argument("--out", type=Path, help="folder to write to; default: RESULTS_ROOT/reports/TABLE")
    parser.add_argument("--panels", metavar="SOURCE", help="source domain whose predictions are shown")
    text = "an image to show; repeat for more; default: an easy, a median and a hard one"
    parser.add_argument("--image", metavar="TARGET/NAME", type=_image, action="append", help=text)


def run(parsed: argparse.Namespace) -> None:
    """Write the report and print its summary."""
    with for_good():
        from tta_bench.errors import shown
        from tta_bench.launch.sweeps import split_sentences
        from tta_bench.metrics.base import METRICS, PRIMARY
        from tta_bench.report.audit import audited
        from tta_bench.report.sweep import summary, tables
        from tta_bench.report.write import write_report

    file = _attributes(parsed)
    found = asked(parsed, "reported")
    chosen = [METRICS.get(name) for name in dict.fromkeys(parsed.metric.split(","))]
    built = [tables(found, parsed.reference, metric) for metric in chosen]  # all before any is written
    if parsed.by is not None:
        built = [[(name, replace(table, audit=audited(table, parsed.by, file))) for name, table in of] for of in built]
    root = found[0].plan.cells[0].cell.config.results_root
    lines = []
    for metric, of_metric in zip(chosen, built, strict=True):
        for group, (_, table) in zip(found, of_metric, strict=True):
            name = table.plan.experiment.name
            several = len(of_metric) > 1
            folder = root / "reports" / group.folder if parsed.out is None else parsed.out / (name if several else "")
            more = [metric.name] * (metric.name != PRIMARY)
            more += [] if parsed.by is None else [f"by_{re.sub(r'[^A-Za-z0-9]+', '_', parsed.by)}"]
            folder = folder.joinpath(*more)
            written = write_report(table, folder, parsed.panels, parsed.image)
            beside = [path.name for path in written[1:] if path.parent == folder]
            _send(table, folder, more, parsed.overrides)
            figures = " and figures/" * any(path.parent.name == "figures" for path in written)
            lines.append(f"wrote {written[0]}, with {', '.join(beside)}{figures} beside it")
        Console().print(summary(of_metric))
    for line in (*map(shown, split_sentences(found)), *lines):
        print(line)


def _attributes(parsed: argparse.Namespace) -> Path | None:
    """The file of ``data.attributes=FILE.csv``, which is taken out of the overrides: it is of no cell.

    Raises:
        UserError: it is given, and no attribute is asked for.
    """
    from tta_bench.errors import UserError

    key = "data.attributes="
    named = [word.removeprefix(key) for word in parsed.overrides if word.startswith(key)]
    parsed.overrides = [word for word in parsed.overrides if not word.startswith(key)]
    if named and parsed.by is None:
        raise UserError(f"{key}{named[-1]} has columns for --by: add --by COLUMN, or leave it out")
    return Path(named[-1]).expanduser() if named else None


def _send(table: Table, folder: Path, more: Sequence[str], words: Sequence[str]) -> None:
    """Show the table where the loggers of its first cell say, and warn where that fails."""
    from tta_bench.sinks.about import about_report
    from tta_bench.sinks.base import SINKS
    from tta_bench.sinks.delivery import send, unsent

    loggers = table.plan.cells[0].cell.config.logger
    if not loggers:
        return
    send(loggers, about_report(table.name, table.protocol_hash, words, more), folder)
    for name, why in unsent(loggers, folder):
        print(f"warning: {SINKS.get(name).title} did not take the table ({why}): the same command sends it again")


def _image(text: str) -> tuple[str, str]:
    target, slash, name = text.partition("/")
    if not (target and slash and name):
        raise argparse.ArgumentTypeError(f"'{text}' names no image: write TARGET/NAME, for instance A/A_007")
    return target, name
