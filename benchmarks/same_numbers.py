"""Compare the numbers of two results folders bit for bit: what a change of the code must not move.

    python benchmarks/same_numbers.py BEFORE AFTER

A cell of one folder is paired with that of the other whose configuration says the same, whatever their hashes: keys
that only one of them has, and places, do not count. Compared are the columns of ``per_image.csv`` that both have, but
times, and the predictions of every target. Exit code 1 if a number differs or a cell of BEFORE has no partner.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

PLACES = ("hash", "results_root", "checkpoint")
TIMES = ("seconds",)


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf of a nested configuration."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}{key}.")
    else:
        yield prefix.rstrip("."), value


def cells(root: Path) -> dict[Path, dict[str, Any]]:
    """Folder and flat configuration of every finished cell below a results folder."""
    found = {}
    for summary in sorted(root.glob("**/cells/*/summary.json")):
        config = yaml.safe_load((summary.parent / "config.yaml").read_text(encoding="utf-8"))
        found[summary.parent] = {key: value for key, value in flat(config) if key not in PLACES}
    return found


def partner(config: Mapping[str, Any], others: Mapping[Path, Mapping[str, Any]]) -> Path | None:
    """The cell that agrees on all keys that both have, and has most of them; None if there is none."""
    agreeing = {
        folder: len(config.keys() ^ other.keys())
        for folder, other in others.items()
        if all(config[key] == other[key] for key in config.keys() & other.keys())
    }
    return min(agreeing, key=lambda folder: agreeing[folder], default=None)


def differences(before: Path, after: Path) -> list[str]:
    """What differs between the numbers of two cells."""
    tables = []
    for folder in (before, after):
        with (folder / "per_image.csv").open(newline="", encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    if len(tables[0]) != len(tables[1]):
        return [f"{len(tables[0])} images instead of {len(tables[1])}"]
    found = []
    for row, other in zip(*tables, strict=True):
        columns = [key for key in row.keys() & other.keys() if key not in TIMES and row[key] != other[key]]
        found += [f"{row['target']}/{row['image']}: {key} {row[key]} -> {other[key]}" for key in sorted(columns)]
    with np.load(before / "predictions.npz") as masks, np.load(after / "predictions.npz") as others:
        found += [f"predictions of {key}" for key in masks.files if not np.array_equal(masks[key], others[key])]
    return found


def main() -> int:
    """Print what differs; the exit code."""
    before, after = (cells(Path(argument)) for argument in sys.argv[1:])
    faults = 0
    for folder, config in before.items():
        other = partner(config, after)
        if other is None:
            print(f"{folder} ({config['method.name']}): no cell of the other folder has its configuration")
            faults += 1
            continue
        found = differences(folder, other)
        faults += bool(found)
        for line in found[:5]:
            print(f"{folder} ({config['method.name']}): {line}")
        if len(found) > 5:
            print(f"{folder}: and {len(found) - 5} more")
    print(f"{len(before)} cells compared, {faults} differ")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
