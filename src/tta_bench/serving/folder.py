"""The folder of results: what it was made of, whether it is finished, and its tables."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tta_bench.data.files import is_own
from tta_bench.errors import UserError
from tta_bench.runtime.files import replacing, translate_os_errors, write_atomically
from tta_bench.runtime.locks import acquire_lock
from tta_bench.runtime.names import csv_file, unguarded

OUT = "as OUT"
"""How another folder is chosen."""

_CONFIG, _LOCK = "config.yaml", ".lock"
_LAST = ("seconds", "skipped")  # columns, after those of the method


def holds_predictions(folder: str | Path) -> bool:
    """Whether a folder is one of :class:`Results`, finished or not."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in (_CONFIG, _LOCK))


class Results:
    """A folder of predictions.

    Args:
        out: the folder.
        identity: all that its content depends on, plain values.
        told: what is written down beside it.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        self.out = out
        self.told = dict(told)
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self.snapshot = out / ".progress.pt"
        self._start = out / ".start_state.pt"
        self._table = out / "predictions.csv"
        self._config = out / _CONFIG

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other processes from it."""
        with translate_os_errors(self.out, OUT):
            self.out.mkdir(parents=True, exist_ok=True)
            lock = acquire_lock(self.out / _LOCK, "predicts into the same folder")
        try:
            yield
        finally:
            lock.release()

    def finished(self) -> list[dict[str, str]] | None:
        """The rows of all images, if they are predicted; None if some are left.

        Raises:
            UserError: the folder has results of something else.
        """
        if not self._config.is_file():
            others = [path.name for path in self.out.iterdir() if is_own(path.name)]
            if others:
                raise UserError(
                    f"{self.out} holds other things ({sorted(others)[0]}): name a new folder, or empty this one"
                )
            return None
        try:
            before = yaml.load(self._config.read_text(encoding="utf-8"), _Loader)
            differing = [key for key in self.identity if before.get(key) != self.identity[key]]
        except (OSError, ValueError, AttributeError, yaml.YAMLError):
            raise UserError(f"{self._config} cannot be read: name another folder, or remove this one") from None
        if differing:
            differing = [key for key in differing if key != "code"] or differing  # another method has other code
            raise UserError(
                f"{self.out} holds predictions made with another {', another '.join(differing)} (see {self._config}): "
                "name another folder, or remove this one"
            )
        return self.rows() if self._table.is_file() else None

    def start(self) -> None:
        """Write down what is going to be computed."""
        from tta_bench import __version__

        content = {"tta_bench": __version__, **self.told, **self.identity}
        text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
        write_atomically(self._config, text, OUT)

    def start_state(self, file: Path | None) -> Path | None:
        """A copy of the state that the first run into this folder began with; None if it began afresh.

        The file itself is replaced at the end, and a run that was stopped goes on from where it began.
        """
        if file is None:
            return None
        if not self._config.is_file() and file.is_file():
            with translate_os_errors(self.out, OUT), replacing(self._start) as temporary:
                shutil.copyfile(file, temporary)
        return self._start if self._start.is_file() else None

    def key(self) -> dict[str, Any]:
        """What two runs must have in common for one to go on where the other stopped."""
        started = hashlib.sha256(self._start.read_bytes()).hexdigest() if self._start.is_file() else None
        digest = hashlib.sha256(json.dumps(self.identity).encode()).hexdigest()
        return {"the request": digest, "the state at the start": started}

    def finish(self, rows: Sequence[Mapping[str, Any]], compare: bool) -> None:
        """Write the tables: now the folder is finished."""
        if compare:
            kept = [row for row in rows if row.get("unadapted_dice") is not None]
            names = [name for name in _columns(kept) if name.startswith(("image", "unadapted_", "area_", "vertical_"))]
            least = sorted(kept, key=lambda row: row["unadapted_dice"])
            write_atomically(self.out / "comparison.csv", csv_file(names, least), OUT)
        write_atomically(self._table, csv_file(_columns(rows), rows), OUT)
        for path in (self.snapshot, self._start):
            path.unlink(missing_ok=True)

    def rows(self) -> list[dict[str, str]]:
        """The rows of ``predictions.csv``, as text."""
        with self._table.open(encoding="utf-8", newline="") as file:
            return [{key: unguarded(cell or "") for key, cell in row.items()} for row in csv.DictReader(file)]


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of all rows, in the order of the row that has most; what went wrong comes last."""
    names = dict.fromkeys(name for row in sorted(rows, key=len, reverse=True)[:1] for name in row)
    names |= dict.fromkeys(name for row in rows for name in row)
    return [*(name for name in names if name not in _LAST), *_LAST]


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Of LibYAML where there is one: lists of images may be long."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Likewise."""
