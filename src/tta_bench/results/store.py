"""A cell's folder: what is written there, atomically, and how it is read back."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tta_bench.files import translate_os_errors, write_atomically
from tta_bench.locks import acquire_lock, is_free
from tta_bench.results.predictions import Predictions, predictions_file

CELL_VERSION = 1
"""Part of every cell's hash; raise it when the same configuration would give other numbers."""


def cell_hash(identity: dict[str, Any]) -> str:
    """16 hexadecimal digits that identify a resolved configuration."""
    text = json.dumps({"version": CELL_VERSION, **identity}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class CellFolder:
    """``results_root/cells/<hash>``.

    ``status.json`` says ``running``, ``done`` or ``failed``; the other files count only beside ``done``.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def hash(self) -> str:
        """The cell's hash."""
        return self.path.name

    @property
    def snapshot(self) -> Path:
        """Where an unfinished run keeps how far it has come."""
        return self.path / "snapshot.pt"

    def delete_snapshot(self) -> None:
        """Remove it, and what a run that was killed while it wrote one has left."""
        for path in self.path.glob(f"{self.snapshot.stem}.*"):
            path.unlink(missing_ok=True)

    def status(self) -> str | None:
        """``running``, ``done`` or ``failed``; None if the cell was never started."""
        try:
            return str(json.loads((self.path / "status.json").read_text())["status"])
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, KeyError, TypeError):
            return None

    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished cell, None for any other, and where a file of it is gone or broken."""
        if self.status() != "done" or not (self.path / "per_image.csv").is_file():
            return None
        try:
            return dict(json.loads((self.path / "summary.json").read_text()))
        except (FileNotFoundError, json.JSONDecodeError, TypeError, ValueError):
            return None

    def rows(self) -> list[dict[str, str]]:
        """The rows of ``per_image.csv``."""
        with (self.path / "per_image.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"

    def is_held(self) -> bool:
        """Whether a process works on the cell; True also where that cannot be found out."""
        return not is_free(self._lock)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold this cell: a second process waits, and the system frees the lock of a killed one."""
        with translate_os_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = acquire_lock(self._lock, "computes the same cell")
        try:
            yield
        finally:
            lock.release()

    def start(self, config: dict[str, Any]) -> None:
        """Write the resolved configuration and the status ``running``."""
        write_atomically(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        self._set_status("running")

    def finish(
        self, rows: Sequence[dict[str, Any]], predictions: Mapping[str, Predictions], summary: dict[str, Any]
    ) -> None:
        """Write the results and, last, the status ``done``."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path / "per_image.csv", text.getvalue())
        write_atomically(self.path / "predictions.npz", predictions_file(predictions))
        write_atomically(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")
        self._set_status("done")

    def fail(self, error: BaseException) -> None:
        """Write the status ``failed`` with the exception."""
        self._set_status("failed", error=f"{type(error).__name__}: {error}")

    def _set_status(self, status: str, **more: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"status": status, "time": now, "process": os.getpid(), **more}
        write_atomically(self.path / "status.json", json.dumps(content, indent=2) + "\n")
