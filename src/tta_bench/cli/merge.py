"""Join results folders of several machines: merge FROM… INTO copies what INTO lacks."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folders."""
    text = "results folders; the last is the one to copy into, and need not exist"
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help=text)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be copied")


def run(parsed: argparse.Namespace) -> None:
    """Copy, and count."""
    from tta_bench.errors import UserError
    from tta_bench.records.merging import KINDS, merge, plan_merge

    *sources, into = parsed.folders
    keys = [each for each in parsed.folders if str(each).startswith("results_root=") and not each.is_dir()]
    if keys:
        raise UserError([f"'{each}' is no folder: name it without results_root=" for each in keys])
    if not sources:
        raise UserError(f"merge FROM… {into}: name the folders to copy from, and last the one to copy into")
    planned = plan_merge(sources, into)
    copied = [] if parsed.dry_run else [*merge(planned)]
    counts = {name: planned.count(kind) for kind, name in KINDS.items()}
    models = " and ".join(_counted(count, name) for name, count in counts.items() if count or name == "source model")
    done = "copied" if copied or not parsed.dry_run else "to copy:"
    cells, present = _counted(len(planned.cells), "cell"), _counted(planned.present, "cell")
    print(f"{done} {cells} and {models} into {into}; {present} there before")
    if planned.unfinished:
        print(
            f"{planned.unfinished} cells are left out, because they are not finished: run them where they are, or here"
        )


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'s' * (count != 1)}"
