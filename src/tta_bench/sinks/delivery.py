"""Runs go to dashboards while they are computed: never in the way, with bounded patience, acknowledged in writing.

Every destination has a thread of its own, which may wait and fail as it likes. ``sinks.json`` in the folder of a run
says what destinations were told of it, and which results arrived there or why they did not. Whoever tells the user at
the end reads it there, so that it does not matter which process sent a run.
"""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tta_bench.errors import UserError
from tta_bench.runtime.files import write_atomically
from tta_bench.sinks.base import SINKS, About, Loggers, Outcome, Point, options_of
from tta_bench.sinks.contents import fingerprint, is_complete, outcome_of, points_of

PATIENCE = 60.0
"""Seconds that a computation waits for what is still to be sent when it is finished."""

FAREWELL = 3.0
"""Seconds that one which was stopped waits."""

SLOW = 10.0
"""A failure that took longer is that of a network: this process waits for it once, not once per run."""

RECORD = "sinks.json"

_given_up: dict[str, str] = {}
"""Destinations that this process waits for no more -> reason."""


class Live:
    """A run as its destinations see it; with no logger, nothing.

    Args:
        loggers: where to.
        about: the run.
        folder: of its results.
        going_on: whether it was stopped before; then all its points are told again, from the first.
    """

    def __init__(self, loggers: Loggers, about: About, folder: Path, *, going_on: bool = False) -> None:
        self.about = about
        self.folder = folder
        self._senders = [_Sender(name, loggers[name], about, folder, going_on) for name in loggers]

    def tell(self, point: Point) -> None:
        """Hand over a point; returns at once."""
        for sender in self._senders:
            sender.items.put(point)

    def finish(self, compared: Mapping[str, float] | None = None) -> None:
        """Send what the folder holds now, wait a bounded time, and write down what has arrived.

        Args:
            compared: numbers that tell a cell from others.
        """
        if not self._senders:
            return
        compared = compared or {}
        try:
            outcome: Outcome | None = outcome_of(self.folder, compared)
        except (OSError, ValueError, AssertionError):  # gone meanwhile
            outcome = None
        begin = time.monotonic()
        for sender in self._senders:
            sender.items.put(outcome)
        for sender in self._senders:
            sender.wait(begin + PATIENCE - time.monotonic())
            if sender.fault is not None and time.monotonic() - begin > SLOW:
                _given_up[sender.key] = sender.fault
        try:
            arrived = fingerprint(self.folder)
        except OSError:
            return
        outcomes = {s.key: {"results": arrived} if s.fault is None else {"fault": s.fault} for s in self._senders}
        _write(self.folder, asdict(self.about), compared, outcomes)

    def stop(self) -> None:
        """The computation has failed or was interrupted: say so, but hardly wait."""
        begin = time.monotonic()
        for sender in self._senders:
            sender.items.put(None)
        for sender in self._senders:
            sender.wait(begin + FAREWELL - time.monotonic())


class _Sender:
    """The thread of one destination; :attr:`fault` is why something did not arrive, in a line."""

    def __init__(self, name: str, section: Mapping[str, Any], about: About, folder: Path, going_on: bool) -> None:
        self.key = _key(name, section)
        self.items: SimpleQueue[Point | Outcome | None] = SimpleQueue()
        self.fault = _given_up.get(self.key)
        self._work = name, section, about, folder, going_on
        self._thread = threading.Thread(target=self._send, daemon=True)
        if self.fault is None:
            self._thread.start()

    def wait(self, seconds: float) -> None:
        """Until all is sent, but not longer."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, seconds))
            if self._thread.is_alive():
                self.fault = f"no answer within {PATIENCE:g} seconds"

    def _send(self) -> None:
        try:
            name, section, about, folder, going_on = self._work
            run = SINKS.get(name).open(options_of(name, section), about, folder, going_on, PATIENCE)
            number = 0
            while isinstance(item := self.items.get(), Point):
                number += 1
                if number > run.held:
                    run.log(item)
            if item is None:
                run.stop()
            else:
                run.finish(item)
        except BaseException as error:  # of many kinds: the network, the account, a library that leaves the program
            lines = str(error).splitlines()
            self.fault = lines[0] if lines and lines[0].strip() else type(error).__name__
            if isinstance(error, ModuleNotFoundError) and (extra := SINKS.get(self._work[0]).extra):
                self.fault += f": pip install 'tta-bench[{extra}]'"


def send(loggers: Loggers, about: About, folder: Path, compared: Mapping[str, float] | None = None) -> None:
    """Send finished results to those destinations that have not acknowledged them; no failure is raised.

    Args:
        loggers: where to.
        about: the run.
        folder: of its results.
        compared: numbers that tell a cell from others.
    """
    waiting = {name: loggers[name] for name, _ in unsent(loggers, folder)}
    if waiting:
        live = Live(waiting, about, folder)
        for point in points_of(folder):
            live.tell(point)
        live.finish(compared)


def unsent(loggers: Loggers, folder: Path) -> Iterator[tuple[str, str]]:
    """Sinks that are not known to have the present results of a folder, and why."""
    for name, section in loggers.items():
        try:
            record = _destinations(folder).get(_key(name, section), {})
            if record.get("results") != fingerprint(folder):
                yield name, str(record.get("fault", f"no acknowledgement is written in the folder {folder}"))
        except OSError as error:
            yield name, str(error)


def recorded(folder: Path) -> tuple[About, Mapping[str, float], list[tuple[str, dict[str, Any]]]] | None:
    """What destinations were told of a finished run, what it was compared with, and where it was to go.

    Returns:
        The last as names of sinks with their options. None where nothing was to be sent, or the run is not finished.
    """
    content = _read(folder)
    try:
        about, compared = About(**content["about"]), dict(content["compared"])
        places = [(str(name), dict(section)) for name, section in map(json.loads, _destinations(folder))]
    except (KeyError, TypeError, ValueError):
        return None
    return (about, compared, places) if is_complete(folder) else None


def unsent_sentences(runs: Iterable[tuple[Loggers, Path]], words: Sequence[str]) -> list[str]:
    """A sentence per reason for which finished runs did not arrive, with the command that sends them.

    Args:
        runs: folders of a command, once each, and where they were to go.
        words: of its command line.
    """
    waiting: dict[tuple[str, str], list[Path]] = {}
    for loggers, folder in runs:
        for name, why in unsent(loggers, folder) if is_complete(folder) else ():
            waiting.setdefault((SINKS.get(name).title, why), []).append(folder)
    command = shlex.join(["python", "-m", "tta_bench", *(word for word in words if not word.startswith("force="))])
    return [
        f"{sink} did not take the results of {len(folders)} finished run{'s' if len(folders) > 1 else ''} ({why}): "
        f"they are complete in {folders[0].parent}; this command sends them and computes nothing again: {command}"
        for (sink, why), folders in waiting.items()
    ]


def _key(name: str, section: Mapping[str, Any]) -> str:
    """A destination as text."""
    return json.dumps([name, options_of(name, section).model_dump(mode="json")], sort_keys=True)


def _destinations(folder: Path) -> dict[str, dict[str, Any]]:
    """Key of a destination -> what is written of it; none where the file is gone or broken: all is sent again."""
    found = _read(folder).get("destinations")
    if not isinstance(found, dict):
        return {}
    return {key: record for key, record in found.items() if isinstance(record, dict)}


def _read(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(
    folder: Path, about: Mapping[str, Any], compared: Mapping[str, float], outcomes: Mapping[str, Mapping[str, str]]
) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    destinations = _destinations(folder) | {key: {**outcome, "time": now} for key, outcome in outcomes.items()}
    content = {"about": about, "compared": compared, "destinations": destinations}
    try:
        write_atomically(folder / RECORD, json.dumps(content, indent=2) + "\n")
    except (UserError, OSError):  # without a record they count as not sent, which is told at the end
        return
