"""What the subcommands about cells in a results folder share."""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tta_bench.cell import Cell
    from tta_bench.launch.sweeps import Group

WHERE = (
    "only cells with these values, such as method=tent,sar,source=D; keys as in config.yaml, and the columns of "
    "tta-bench cells --csv; repeatable"
)


def add_where(parser: argparse.ArgumentParser) -> None:
    """A filter of cells."""
    parser.add_argument("--where", metavar="KEY=VALUE,…", action="append", default=[], help=WHERE)


def add_asked(parser: argparse.ArgumentParser) -> None:
    """Which tables or cells, for :func:`asked`."""
    text = "a name of tta-bench list experiments, PATH.yaml, or the beginnings of the hashes of cells"
    parser.add_argument("overrides", nargs="*", metavar="TABLE|CELL…|KEY=VALUE", help=f"{text}; overrides as for a run")
    parser.add_argument("--last", action="store_true", help="the cells of the last sweep of this results folder")
    add_where(parser)
    parser.add_argument("--config-dir", metavar="DIR", help="as for a run: more YAML files, experiments/ among them")


def results_root(overrides: Sequence[str]) -> Path:
    """The results folder that ``results_root=DIR`` names, or the default one.

    Raises:
        UserError: other words.
    """
    from tta_bench.errors import UserError
    from tta_bench.launch.keys import compose_data

    others = [word for word in overrides if not word.startswith("results_root=")]
    if others:
        raise UserError([f"'{word}': cells that exist have their settings; results_root=DIR alone" for word in others])
    return compose_data(overrides)[1].expanduser()


def chosen(root: Path, where: Sequence[str], *, may_be_empty: bool = False) -> list[Cell]:
    """The cells of a results folder that filters let through, and a warning for each that cannot be read.

    Raises:
        UserError: a filter by a key that no cell has, or nothing is let through where that may not be.
    """
    from tta_bench.errors import UserError, shown
    from tta_bench.launch.stored import check_keys, facts, fits, parse_where, stored_cells
    from tta_bench.report.cells import Standing, standing

    filters = parse_where(where)
    cells, unreadable = stored_cells(root)
    for fault in unreadable:
        print(f"warning: {shown(fault)}")
    known = [facts(cell) for cell in cells]
    if cells:
        check_keys(filters, {*Standing._fields, *(key for each in known for key in each)})
    later = {key: patterns for key, patterns in filters.items() if key in Standing._fields}
    first = {key: patterns for key, patterns in filters.items() if key not in later}
    found = [cell for cell, of in zip(cells, known, strict=True) if fits(first, of)]
    if later:  # many files to read
        found = [cell for cell in found if fits(later, standing(cell)._asdict())]
    if not found and not may_be_empty:
        raise UserError(
            f"no cell in {root / 'cells'}{' is so' if where else ''}: 'tta-bench cells' lists what there is"
        )
    return found


def asked(parsed: argparse.Namespace, done: str) -> list[Group]:
    """The tables that are asked for, those of cells with the references that are finished.

    Args:
        parsed: with the arguments of :func:`add_asked`.
        done: what is done to them.

    Raises:
        UserError: none is, or several at once; or what they are made of is not there.
    """
    from tta_bench.cli._table import of_what_is_there
    from tta_bench.errors import UserError
    from tta_bench.launch.experiments import plan, searches
    from tta_bench.launch.stored import cell_of, cells_by_hash, read_last_sweep
    from tta_bench.launch.sweeps import Group, groups
    from tta_bench.report.sweep import with_finished_references

    names = [word for word in parsed.overrides if "=" not in word or Path(word).is_file()]
    overrides = [word for word in parsed.overrides if word not in names]
    given = [bool(names), parsed.last, bool(parsed.where)]
    if sum(given) != 1:
        what = "a TABLE, CELL…, --last or --where"
        raise UserError(f"choose one of them: {what}" if any(given) else f"what is to be {done}? Give {what}")
    if names and not all(re.fullmatch("[0-9a-f]{4,16}", word) for word in names):
        if len(names) > 1:
            raise UserError(f"'{' '.join(names)}': one table at a time, or beginnings of the hashes of cells")
        planned = plan(names[0], of_what_is_there(overrides), parsed.config_dir)
        if searches(planned):
            raise UserError(
                f"{names[0]} searches for options and has no cells to be {done}: 'tta-bench status {names[0]}' shows "
                "what it has found, and an experiment with rows of method.preset=tuned makes a table of it"
            )
        return [Group("", planned, planned.experiment.name)]
    root = results_root(overrides)
    if parsed.last:
        last = read_last_sweep(root)
        if last["table"] is not None:
            planned = plan(last["table"], last["overrides"], last["config_dir"])
            return [Group("", planned, planned.experiment.name)]
        cells = [cell_of(record, root) for record in last["cells"]]
        return groups(cells, "last", f"The last sweep: {' '.join(last['command'])}")
    cells = cells_by_hash(root, names) if names else chosen(root, parsed.where)
    text = " ".join([*(f"--where {where}" for where in parsed.where), *names])
    return groups(with_finished_references(cells), "cells", f"Cells of {root}: {text}", _folder_name(text))


def _folder_name(question: str) -> str:
    """Of the report of cells: another question has another, so that no old answer lies beside a new one."""
    words = question.replace("--where ", "")
    name = re.sub("[^A-Za-z0-9_.-]+", "_", words)[:40]
    return f"cells_{name}" if name == words else f"cells_{name}_{hashlib.sha256(words.encode()).hexdigest()[:8]}"
