"""Write a table of an experiment, of the last sweep or of any cells, as Markdown, CSV, LaTeX and HTML.

With ``logger=NAME`` it is shown there, too.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tta_bench.cli._stored import add_where, chosen, results_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tta_bench.launch.sweeps import Group
    from tta_bench.report.model import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is reported, and what is shown of it."""
    text = "a name of tta-bench list experiments, PATH.yaml, or the beginnings of the hashes of cells"
    parser.add_argument("overrides", nargs="*", metavar="TABLE|CELL…|KEY=VALUE", help=f"{text}; overrides as for a run")
    parser.add_argument("--last", action="store_true", help="the cells of the last sweep of this results folder")
    add_where(parser)
    parser.add_argument("--config-dir", metavar="DIR", help="as for a run: more YAML files, experiments/ among them")
    parser.add_argument("--reference", metavar="ROW", help="row to compare with; default: that of the table")
    parser.add_argument("--metric", metavar="NAME", default="dice", help="of tta-bench list metrics; default: dice")
    parser.add_argument("--out", type=Path, help="folder to write to; default: RESULTS_ROOT/reports/TABLE")
    parser.add_argument("--panels", metavar="SOURCE", help="source domain whose predictions are shown")
    text = "an image to show; repeat for more; default: an easy, a median and a hard one"
    parser.add_argument("--image", metavar="TARGET/NAME", type=_image, action="append", help=text)


def run(parsed: argparse.Namespace) -> None:
    """Write the report and print its summary."""
    from tta_bench.errors import shown
    from tta_bench.launch.sweeps import split_sentences
    from tta_bench.metrics.base import METRICS
    from tta_bench.report.sweep import summary, tables
    from tta_bench.report.write import write_report

    found = _groups(parsed)
    built = tables(found, parsed.reference, METRICS.get(parsed.metric))
    root = found[0].plan.cells[0].cell.config.results_root
    lines = []
    for _, table in built:
        name = table.plan.experiment.name
        folder = root / "reports" / name if parsed.out is None else parsed.out / (name if len(built) > 1 else "")
        written = write_report(table, folder, parsed.panels, parsed.image)
        beside = [path.name for path in written[1:] if path.parent == folder]
        _send(table, folder, parsed.overrides)
        lines.append(f"wrote {written[0]}, with {', '.join(beside)} and figures/ beside it")
    Console().print(summary(built))
    for line in (*map(shown, split_sentences(found)), *lines):
        print(line)


def _groups(parsed: argparse.Namespace) -> list[Group]:
    """The tables that are asked for.

    Raises:
        UserError: none is, or several at once; or what they are made of is not there.
    """
    from tta_bench.errors import UserError
    from tta_bench.launch.experiments import plan, searches
    from tta_bench.launch.stored import cell_of, cells_by_hash, read_last_sweep
    from tta_bench.launch.sweeps import Group, groups
    from tta_bench.report.sweep import with_finished_references

    names = [word for word in parsed.overrides if "=" not in word or Path(word).is_file()]
    overrides = [word for word in parsed.overrides if word not in names]
    asked = [bool(names), parsed.last, bool(parsed.where)]
    if sum(asked) != 1:
        what = "a TABLE, CELL…, --last or --where"
        raise UserError(f"choose one of them: {what}" if any(asked) else f"what is to be reported? Give {what}")
    if names and not all(re.fullmatch("[0-9a-f]{4,16}", word) for word in names):
        if len(names) > 1:
            raise UserError(f"'{' '.join(names)}': one table at a time, or beginnings of the hashes of cells")
        planned = plan(names[0], overrides, parsed.config_dir)
        if searches(planned):
            raise UserError(
                f"{names[0]} searches for options and has no cells to report: 'tta-bench status {names[0]}' shows what "
                "it has found, and an experiment with rows of method.preset=tuned makes a table of it"
            )
        return [Group("", planned)]
    root = results_root(overrides)
    if parsed.last:
        last = read_last_sweep(root)
        if last["table"] is not None:
            return [Group("", plan(last["table"], last["overrides"], last["config_dir"]))]
        cells = [cell_of(record, root) for record in last["cells"]]
        return groups(cells, "last", f"The last sweep: {' '.join(last['command'])}")
    cells = cells_by_hash(root, names) if names else chosen(root, parsed.where)
    text = " ".join([*(f"--where {where}" for where in parsed.where), *names])
    return groups(with_finished_references(cells), "cells", f"Cells of {root}: {text}")


def _send(table: Table, folder: Path, words: Sequence[str]) -> None:
    """Show the table where the loggers of its first cell say, and warn where that fails."""
    from tta_bench.sinks.about import about_report
    from tta_bench.sinks.base import SINKS
    from tta_bench.sinks.delivery import send, unsent

    loggers = table.plan.cells[0].cell.config.logger
    if not loggers:
        return
    send(loggers, about_report(table.name, table.protocol_hash, words), folder)
    for name, why in unsent(loggers, folder):
        print(f"warning: {SINKS.get(name).title} did not take the table ({why}): the same command sends it again")


def _image(text: str) -> tuple[str, str]:
    target, slash, name = text.partition("/")
    if not (target and slash and name):
        raise argparse.ArgumentTypeError(f"'{text}' names no image: write TARGET/NAME, for instance A/A_007")
    return target, name
