"""A cell's folder: what is written there, atomically, and how it is read back."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tta_bench.errors import UserError
from tta_bench.locks import acquire_lock, is_free
from tta_bench.names import csv_file, csv_rows
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
            return csv_rows(file)

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
        write_atomically(self.path / "config.yaml", yaml.dump(config, Dumper=_TextDumper, sort_keys=False))
        self._set_status("running")

    def finish(
        self, rows: Sequence[dict[str, Any]], predictions: Mapping[str, Predictions], summary: dict[str, Any]
    ) -> None:
        """Write the results and, last, the status ``done``."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        write_atomically(self.path / "per_image.csv", csv_file(columns, rows))
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


class _TextDumper(yaml.SafeDumper):
    """Quotes text that any YAML reader, not only PyYAML's, might take for a number: ``1e3``, ``0o17``."""


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    looks_numeric = text[:1] in frozenset("0123456789+-.")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if looks_numeric else None)


_TextDumper.add_representer(str, _text_node)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is whole or absent.

    Raises:
        UserError: no space, no permission, or no such place.
    """
    with translate_os_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def translate_os_errors(folder: Path) -> Iterator[None]:
    """Turn a failing file system into a sentence that names the folder and the remedy."""
    reasons = {
        errno.ENOSPC: "no space is left on its disk: free some",
        errno.EDQUOT: "the disk quota is used up: free some space",
        errno.EACCES: "there is no permission to write there: change it",
        errno.EPERM: "there is no permission to write there: change it",
        errno.EROFS: "its file system is read-only: mount it for writing",
        errno.ENOENT: "there can be no such folder: check the path",
        errno.ENAMETOOLONG: "its name is too long: shorten it",
        errno.ENOTDIR: "a part of its path is a file: move that file",
        errno.EEXIST: "a file of that name is in the way: move that file",
    }
    try:
        yield
    except OSError as error:
        if error.errno not in reasons:
            raise
        raise UserError(
            f"cannot write to {folder}: {reasons[error.errno]}, or choose another folder with results_root=DIR"
        ) from None
