"""What a folder of results holds for a dashboard: the points of its curves, and what there is at the end.

The folder is the truth: what was not seen live is sent from it, the same.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tta_bench.records.examination import FILE as EXAMINATION
from tta_bench.records.store import CellFolder
from tta_bench.runtime.values import flat
from tta_bench.sinks.base import Grid, Outcome, Point

TRAINING = "training.json"
"""In the folder of a source model: the points of its training, and what it came to."""

TABLE = "table.csv"
"""In the folder of a report."""

SENT = ("summary.json", "per_image.csv", TRAINING, TABLE)
"""The files that say whether there is something new to send."""

NO_CURVES = ("source", "target", "method", "seed", "index", "image", "position")
"""Columns of ``per_image.csv`` that say which image it is."""


class Curves:
    """The points of a cell, image by image as they are computed.

    Args:
        metrics: names of those that get a running mean as well.
    """

    def __init__(self, metrics: tuple[str, ...]) -> None:
        self.metrics = metrics
        self._means: dict[str, dict[str, tuple[int, float]]] = {}
        self._images: dict[str, int] = {}

    def point(self, row: Mapping[str, Any]) -> Point:
        """That of the next row of ``per_image.csv``: its numbers, and the means over its target so far."""
        target = row["target"]
        values = {
            name: float(value) for name, value in row.items() if name not in NO_CURVES and value not in ("", None)
        }
        means, number = self._means.setdefault(target, {}), self._images.get(target, 0) + 1
        self._images[target] = number
        for name in self.metrics:
            if math.isfinite(values.get(name, math.nan)):
                count, total = means.get(name, (0, 0.0))
                means[name] = count + 1, total + values[name]
                values[f"running_{name}"] = means[name][1] / means[name][0]
        finite = {f"{target}/{name}": value for name, value in values.items() if math.isfinite(value)}
        return Point(f"{target}/image", number, finite)


def points_of(folder: Path) -> Iterator[Point]:
    """All points of a finished run, in the order of its targets."""
    if (folder / TRAINING).is_file():
        for axis, position, values in _read(folder / TRAINING)["points"]:
            yield Point(axis, position, values)
    finished = CellFolder(folder).finished()
    if finished is not None:
        summary, rows = finished
        curves = Curves(tuple(summary.get("metrics", ("dice",))))
        order = list(summary["targets"])
        for row in sorted(rows, key=lambda row: (order.index(row["target"]), int(row["position"]))):
            yield curves.point(row)


def outcome_of(folder: Path, compared: Mapping[str, float]) -> Outcome:
    """What a finished run came to.

    Args:
        folder: of a cell, of a source model or of a report.
        compared: numbers that tell a cell from others.
    """
    pictures = {path.stem: path for path in sorted((folder / "panels").glob("*.png"))}
    if (folder / TRAINING).is_file():
        examined = folder / EXAMINATION
        found = flat(_read(examined).get("examination", {}), "/", "examined/") if examined.is_file() else {}
        return Outcome({**_read(folder / TRAINING)["summary"], **found})
    if (folder / TABLE).is_file():
        files = [path for path in sorted(folder.iterdir()) if path.suffix in (".md", ".csv", ".tex", ".html")]
        files += sorted((folder / "figures").glob("*.pdf"))
        return Outcome({}, {}, _grid(folder / TABLE), files)
    finished = CellFolder(folder).finished()
    assert finished is not None
    summary = finished[0]
    numbers = flat({name: summary[name] for name in summary.get("metrics", ("dice",))}, "/")
    numbers |= flat(summary["targets"], "/")
    images = sum(target["n"] for target in summary["targets"].values())
    costs = ("seconds_per_image", "forwards_per_image", "backwards_per_image", "peak_memory_mb", "skipped_updates")
    numbers |= {f"cost/{name}": summary[name] for name in costs}
    numbers["cost/seconds"] = summary["seconds_per_image"] * images
    dice = summary["source_checkpoint"]["dice_in_domain"]
    numbers |= {} if dice is None else {"source_model/dice_in_domain": dice}
    numbers |= flat(summary["source_checkpoint"].get("examination") or {}, "/", "source_model/examined/")
    numbers |= {f"versions/{name}": str(value) for name, value in summary["versions"].items()}
    columns = list(dict.fromkeys(name for target in summary["targets"].values() for name in target))
    rows = [[name, *(target.get(column) for column in columns)] for name, target in summary["targets"].items()]
    numbers = {name: value for name, value in numbers.items() if value == value}  # NaN: a metric without a value
    return Outcome({**numbers, **compared}, pictures, Grid(["target", *columns], rows))


def is_complete(folder: Path) -> bool:
    """Whether there is something finished in it."""
    return any((folder / name).is_file() for name in (TRAINING, TABLE)) or CellFolder(folder).status() == "done"


def fingerprint(folder: Path) -> str:
    """SHA-256 of what is sent.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    for path in (folder / name for name in SENT):
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _grid(path: Path) -> Grid:
    """A CSV file, numbers as such."""
    with path.open(newline="", encoding="utf-8") as file:
        columns, *rows = list(csv.reader(file))
    return Grid(columns, [[_number(text) for text in row] for row in rows])


def _number(text: str) -> str | float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
