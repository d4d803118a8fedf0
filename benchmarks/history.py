"""What ``adapt_speed.py`` measured before, a line of JSON per run, and whether a method has become slower since."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""One method at one size: see :func:`adapt_speed.compare`."""
Entry = dict[str, Any]
"""One run: ``machine``, ``commit``, ``load`` (of the machine, a minute's average at the end) and ``rows``."""

HISTORY = Path(__file__).with_name("history.jsonl")
ALLOWED = 0.10
"""By how much of itself a ratio may grow."""
_SAME = ("method", "size", "precision", "streams", "device", "threads")


def read(path: Path) -> list[Entry]:
    """All entries, oldest first."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, entry: Entry) -> None:
    """Add an entry at the end."""
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def latest_rows(entries: Sequence[Entry], machine: str) -> dict[tuple[Any, ...], tuple[Row, str]]:
    """Of a machine: what a row is of -> the last row of it, and the commit that was measured."""
    here = (entry for entry in entries if entry["machine"] == machine)
    return {tuple(row[name] for name in _SAME): (row, entry["commit"]) for entry in here for row in entry["rows"]}


def regressions(before: Sequence[Entry], entry: Entry) -> list[str]:
    """A sentence for each row whose ratio to the plain loop has grown by more than :data:`ALLOWED`."""
    known, found = latest_rows(before, entry["machine"]), []
    for row in entry["rows"]:
        old, commit = known.get(tuple(row[name] for name in _SAME), (row, ""))
        if row["ratio"] > (1 + ALLOWED) * old["ratio"]:
            found.append(
                f"{row['method']} at {row['size']} px, {row['precision']}: {row['ratio']:.3f} of its plain loop, "
                f"{old['ratio']:.3f} at {commit}"
            )
    return found
