"""A cell's folder: what is written there, atomically, and how it is read back."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tta_bench.errors import UserError
from tta_bench.records.examination import Examination, with_examination
from tta_bench.records.finished import DamagedError, read_json, read_rows, read_summary
from tta_bench.records.predictions import Predictions, check_predictions, predictions_file
from tta_bench.runtime.files import leftovers, move_aside, temporaries, translate_os_errors, warn_once, write_atomically
from tta_bench.runtime.locks import acquire_lock, is_free
from tta_bench.runtime.names import csv_file

log = logging.getLogger(__name__)

STATUSES = ("running", "done", "failed", "interrupted")
"""What ``status.json`` may say."""

CELL_VERSION = 1
"""Part of every cell's hash; raise it when the same configuration would give other numbers."""

FILES = ("config.yaml", "status.json", "summary.json", "per_image.csv", "predictions.npz", "run.log")
"""What a cell leaves behind."""


def cell_hash(identity: dict[str, Any]) -> str:
    """16 hexadecimal digits that identify a resolved configuration."""
    text = json.dumps({"version": CELL_VERSION, **identity}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class CellFolder:
    """``results_root/cells/<hash>``.

    ``status.json`` says ``running``, ``done``, ``failed`` or ``interrupted``; the other files count if it is ``done``.

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

    @property
    def predictions(self) -> Path:
        """The binary masks of a finished cell."""
        return self.path / "predictions.npz"

    def delete_leftovers(self) -> None:
        """Remove what a killed run has left of a cell that is finished now; the caller holds its lock."""
        with suppress(OSError):  # a folder that only may be read keeps it
            self.delete_snapshot()
            for path in temporaries(self.path):
                path.unlink(missing_ok=True)

    def delete_snapshot(self) -> None:
        """Remove it, and what a run that was killed while it wrote one has left."""
        for path in (self.snapshot, *leftovers(self.snapshot)):
            if not path.is_dir():
                path.unlink(missing_ok=True)

    def status(self) -> str | None:
        """``running``, ``done``, ``failed`` or ``interrupted``; None if never started, or where the file is broken."""
        return self._status().get("status")

    def error(self) -> str:
        """Why a cell failed, or the signal that interrupted it; else empty."""
        return self._status().get("error", "")

    def process(self) -> int | None:
        """The process that has written the status, by its number on its machine; None if never started."""
        number = self._status().get("process", "")
        return int(number) if number.isdecimal() else None

    def finished(self, *, thoroughly: bool = False) -> tuple[dict[str, Any], list[dict[str, str]]] | None:
        """The content of ``summary.json`` and the rows of ``per_image.csv``, if the cell is finished.

        This alone decides whether results count. A file that is gone or damaged is named in a warning, once.

        Args:
            thoroughly: decode the predictions too; else their sizes alone are compared. They may be absent.

        Returns:
            None for a cell that is not done, and for one whose files cannot be used: the next run computes it again.
        """
        if self.status() != "done":
            return None
        try:
            summary = read_summary(self.path / "summary.json")
            rows = read_rows(self.path / "per_image.csv", summary)
            if os.path.lexists(self.predictions):
                images = {name: target["n"] for name, target in summary["targets"].items()}
                check_predictions(self.predictions, images, decode=thoroughly)
        except DamagedError as error:
            warn_once(log, f"{error}: the cell counts as missing, the next run computes it again")
            return None
        return summary, rows

    def _status(self) -> dict[str, str]:
        """The content of ``status.json``; empty where there is none, and with a warning where it is broken."""
        path = self.path / "status.json"
        if not os.path.lexists(path):
            return {}
        try:
            content = read_json(path)
            texts = {key: value for key in ("status", "error") if isinstance(value := content.get(key), str)}
            if isinstance(number := content.get("process"), int):
                texts["process"] = str(number)
            if texts.get("status") not in STATUSES:
                raise DamagedError(f"{path} (it tells no status)")
        except DamagedError as error:
            warn_once(log, f"{error}: the cell counts as missing, the next run computes it again")
            return {}
        return texts

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
            for name in (*FILES, self.snapshot.name, self._lock.name):
                move_aside(self.path / name)
            lock = acquire_lock(self._lock, "computes the same cell")
        try:
            yield
        finally:
            lock.release()

    def start(self, config: dict[str, Any]) -> None:
        """Write the resolved configuration and the status ``running``."""
        write_atomically(self.path / "config.yaml", yaml.dump(config, Dumper=_TextDumper, sort_keys=False))
        self._set_status("running")

    def finish(
        self, rows: Sequence[dict[str, Any]], predictions: Mapping[str, Predictions], summary: dict[str, Any]
    ) -> None:
        """Write the results and, last, the status ``done``."""
        write_atomically(self.predictions, predictions_file(predictions))
        self.rewrite(rows, summary)
        self._set_status("done")

    def rewrite(self, rows: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
        """Write the scores of the predictions; killed between the two files, the cell is still complete."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        write_atomically(self.path / "per_image.csv", csv_file(columns, rows))
        write_atomically(self.path / "summary.json", json.dumps(_with_nulls(summary), indent=2) + "\n")

    def annotate(
        self, finished: tuple[dict[str, Any], list[dict[str, str]]], examination: Examination | None
    ) -> tuple[dict[str, Any], list[dict[str, str]]]:
        """A finished result with what is known of its source model since, in ``summary.json`` too if it can be written.

        Args:
            finished: summary and rows.
            examination: what that is; None leaves the result as it is.
        """
        summary, rows = with_examination(finished[0], examination), finished[1]
        if examination is None or summary == finished[0]:
            return finished
        with suppress(OSError, UserError):  # a folder that only may be read keeps what it has
            write_atomically(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary, rows

    def fail(self, error: BaseException) -> None:
        """Write the status ``failed`` with the exception."""
        self._set_status("failed", error=f"{type(error).__name__}: {error}")

    def interrupt(self, signal: str) -> None:
        """Write the status ``interrupted`` with the signal's name, unless the results are complete already."""
        if self.status() != "done":
            self._set_status("interrupted", error=signal)

    def _set_status(self, status: str, **more: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"status": status, "time": now, "process": os.getpid(), **more}
        write_atomically(self.path / "status.json", json.dumps(content, indent=2) + "\n")


def _with_nulls(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _with_nulls(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


class _TextDumper(yaml.SafeDumper):
    """Quotes text that any YAML reader, not only PyYAML's, might take for a number: ``1e3``, ``0o17``."""


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    looks_numeric = text[:1] in frozenset("0123456789+-.")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if looks_numeric else None)


_TextDumper.add_representer(str, _text_node)
