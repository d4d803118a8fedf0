"""One CSV file of all cells, to open in a spreadsheet or to read with pandas."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock
from pydantic import BeforeValidator

from tta_bench.runtime.files import write_atomically
from tta_bench.runtime.names import csv_file, unguarded
from tta_bench.runtime.values import flat
from tta_bench.sinks.base import About, Outcome, Point, Run, SinkOptions, register_sink

_OWN_COLUMN = {"cell", "called", "source", "target", "seed"}
_NO_NUMBER = {"results_root", "launch", "runtime", "lockstep", "device", "metrics", "tune", "search"}
"""Keys of a run that decide no number of it: all others are columns."""


class CsvOptions(SinkOptions):
    """The keys of ``conf/logger/csv.yaml``."""

    path: Annotated[Path, BeforeValidator(lambda value: Path(str(value)).expanduser())]


@register_sink("csv", "The CSV file", CsvOptions)
class CsvRun(Run):
    """One tidy CSV file: a line per cell and target, with what was varied."""

    def __init__(self, options: CsvOptions, about: About, folder: Path, going_on: bool, patience: float) -> None:
        self._path = options.path
        self._about = about
        self._patience = patience

    def log(self, point: Point) -> None:
        """Points stand in the ``per_image.csv`` of each cell."""

    def finish(self, outcome: Outcome) -> None:
        """Put the cell's lines into the file, in place of earlier ones."""
        if outcome.grid is None or self._about.job != "cell":
            return
        cell, config = self._about.id, self._about.config
        head = {"cell": cell, "name": self._about.name, "group": self._about.group or "", "source": config["source"]}
        head |= {"method": config["called"], "seed": config["seed"]}
        costs: dict[str, Any] = {name: value for name, value in outcome.summary.items() if name.startswith("cost/")}
        options = flat({key: value for key, value in config.items() if key not in _OWN_COLUMN | _NO_NUMBER}, "/")
        lines = [
            head | dict(zip(outcome.grid.columns, row, strict=True)) | costs | options for row in outcome.grid.rows
        ]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._path}.lock", timeout=self._patience):
            kept = [line for line in self._lines() if line.get("cell") != cell]
            columns = dict.fromkeys(key for line in (*lines, *kept) for key in line)
            write_atomically(self._path, csv_file(list(columns), [*kept, *lines]))

    def stop(self) -> None:
        """An unfinished cell has no lines."""

    def _lines(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            return [{key: unguarded(text) for key, text in line.items()} for line in csv.DictReader(file)]
