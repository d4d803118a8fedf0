"""Where finished results also go: sent with bounded patience, acknowledged in writing, and never in the way.

``sinks.json`` in a cell's folder says per destination which results arrived or why they did not. Whoever tells the
user at the end reads it there, so that it does not matter which process sent a cell.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from tta_bench.errors import UserError
from tta_bench.records.store import CellFolder, write_atomically
from tta_bench.schema import LoggerConfig
from tta_bench.sinks.base import SINKS, sink_of

PATIENCE = 60.0
"""Seconds that the sending of a cell may take."""

SLOW = 10.0
"""A failure that took longer is that of a network: this process waits for it once, not once per cell."""

_given_up: dict[str, str] = {}
"""Destinations that this process waits for no more -> reason."""


def send(config: LoggerConfig, cell: CellFolder) -> None:
    """Send a finished cell unless these very results are acknowledged; a failure is written down, not raised.

    Args:
        config: whether and where to.
        cell: finished, and held by the caller.
    """
    chosen = sink_of(config)
    if chosen is None or unsent(config, cell) is None:
        return
    sink, options = chosen
    destination = json.dumps(_destination(config))
    fault = _given_up.get(destination)
    if fault is None:
        begin = time.monotonic()
        fault = _within(PATIENCE, lambda: sink.send(options, cell, PATIENCE))
        if fault is not None and time.monotonic() - begin > SLOW:
            _given_up[destination] = fault
    _record(config, cell, {"results": _fingerprint(cell)} if fault is None else {"fault": fault})


def unsent(config: LoggerConfig, cell: CellFolder) -> str | None:
    """Why the present results of a finished cell are not known to have arrived; None if they have."""
    try:
        record = next((record for record in _records(cell) if _is_of(record, config)), {})
        if record.get("results") == _fingerprint(cell):
            return None
        return str(record.get("fault", f"no acknowledgement is written in the folder {cell.path}"))
    except OSError as error:
        return str(error)


def unsent_sentences(cells: Iterable[tuple[LoggerConfig, CellFolder]], words: Sequence[str]) -> list[str]:
    """A sentence per reason for which finished cells did not arrive, with the command that sends them.

    Args:
        cells: of a command, once each, and where they were to go.
        words: of its command line.
    """
    waiting: dict[tuple[str, str], list[CellFolder]] = {}
    for config, cell in cells:
        if config.name != "none" and cell.finished() is not None and (why := unsent(config, cell)) is not None:
            waiting.setdefault((SINKS.get(config.name).title, why), []).append(cell)
    command = shlex.join(["python", "-m", "tta_bench", *(word for word in words if not word.startswith("force="))])
    return [
        f"{sink} did not take the results of {len(folders)} finished cell{'s' if len(folders) > 1 else ''} ({why}): "
        f"they are complete in {folders[0].path.parent}; this command sends them and computes nothing again: {command}"
        for (sink, why), folders in waiting.items()
    ]


def _within(seconds: float, action: Callable[[], None]) -> str | None:
    """Do it in a thread of its own; why it failed, in a line, or None. Whatever it raises stays there."""
    faults: list[str] = []

    def attempt() -> None:
        try:
            action()
        except BaseException as error:  # of many kinds: the network, the account, a library that leaves the program
            lines = str(error).splitlines()
            faults.append(lines[0] if lines and lines[0].strip() else type(error).__name__)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return f"no answer within {seconds:g} seconds"
    return faults[0] if faults else None


def _destination(config: LoggerConfig) -> dict[str, Any]:
    chosen = sink_of(config)
    return {"sink": config.name, **(chosen[1].model_dump(mode="json", exclude={"name"}) if chosen else {})}


def _is_of(record: dict[str, Any], config: LoggerConfig) -> bool:
    return _destination(config).items() <= record.items()


def _records(cell: CellFolder) -> list[dict[str, Any]]:
    """Those of all destinations; none where the file is gone or broken, so that everything is sent again."""
    try:
        content = json.loads((cell.path / "sinks.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [record for record in content if isinstance(record, dict)] if isinstance(content, list) else []


def _record(config: LoggerConfig, cell: CellFolder, outcome: dict[str, str]) -> None:
    record = {**_destination(config), **outcome, "time": datetime.now(UTC).isoformat(timespec="seconds")}
    records = [*(other for other in _records(cell) if not _is_of(other, config)), record]
    try:
        write_atomically(cell.path / "sinks.json", json.dumps(records, indent=2) + "\n")
    except (UserError, OSError):  # without a record they count as not sent, which is told at the end
        return


def _fingerprint(cell: CellFolder) -> str:
    """SHA-256 of what is sent."""
    digest = hashlib.sha256()
    for name in ("summary.json", "per_image.csv"):
        digest.update((cell.path / name).read_bytes())
    return digest.hexdigest()
