"""How far a sweep is, told in the terminal that started it; whatever runs the cells, the results folder knows."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tta_bench.errors import shown

if TYPE_CHECKING:
    from tta_bench.cell import Cell
    from tta_bench.schema import RunConfig

_LOOK, _TELL, _REMIND = 1.0, 2.0, 30.0
"""Seconds between two looks; at least between two lines; at most, while cells are left."""


@dataclass(frozen=True)
class Tally:
    """Cells of a sweep by what has become of them; those that are left wait.

    Attributes:
        total: all of them.
        done: finished, now or before.
        running: with a process that works on them.
        failed: with an exception.
        stopped: interrupted, or killed: the next run goes on with them.
    """

    total: int
    done: int = 0
    running: int = 0
    failed: int = 0
    stopped: int = 0

    @property
    def left(self) -> int:
        """Those that may still be finished by this run."""
        return self.total - self.done - self.failed - self.stopped


def progress_line(tally: Tally, finished: int, seconds: float) -> str:
    """A line such as ``12 of 30 cells done, 2 running, 1 failed; 4.0 a minute, about 4 min left``.

    Args:
        tally: of all cells.
        finished: cells that were done in this run.
        seconds: since the first of them began.
    """
    counts = [f"{tally.done} of {tally.total} cells done"]
    named = {"running": tally.running, "failed": tally.failed, "interrupted or killed": tally.stopped}
    counts += [f"{number} {name}" for name, number in named.items() if number]
    if not finished or seconds <= 0:
        return ", ".join(counts)
    per_second = finished / seconds
    speed = f"{per_second * 60:.1f} a minute" if per_second >= 1 / 60 else f"{per_second * 3600:.1f} an hour"
    remaining = f", about {duration(tally.left / per_second)} left" if tally.left else ""
    return f"{', '.join(counts)}; {speed}{remaining}"


def duration(seconds: float) -> str:
    """A time in the unit in which it has one to two digits: ``50 s``, ``12 min``, ``3.5 h``, ``4.2 days``."""
    for unit, size, limit, digits in (("s", 1, 90, 0), ("min", 60, 5400, 0), ("h", 3600, 129600, 1)):
        if seconds < limit:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def say(line: str) -> None:
    """Print a line whole: other threads print beside this one, and ``print`` writes the end of a line by itself."""
    print(f"{line}\n", end="", flush=True)


class Watcher:
    """Looks at the cells of a sweep, and tells their number and every failure once.

    Args:
        configs: all runs of the sweep; their cells and the references of those are watched.
    """

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        from tta_bench.cell import Cell

        cells: dict[Path, Cell] = {}
        for config in configs:
            for cell in Cell.all_of(config):
                for each in (cell, cell.reference()):
                    if each is not None:
                        cells.setdefault(each.folder().path, each)
        self._open = {path: cell for path, cell in cells.items() if cell.config.force or cell.finished() is None}
        self._total, self._done_before = len(cells), len(cells) - len(self._open)
        self._configs = configs
        self._roots = {config.results_root for config in configs}
        self._written = time.time()
        self._first: float | None = None  # when a cell was first seen at work: trainings before it say nothing of cells
        self._failures: dict[Path, str] = {}
        self._finished = 0
        self._told: tuple[str, float] | None = None

    def look(self) -> Tally:
        """Read the statuses of all cells that are not finished, and tell failures that are new."""
        counts = {"running": 0, "failed": 0, "interrupted": 0, "killed": 0}
        for path, cell in list(self._open.items()):
            status = self._status(cell)
            if status == "done":
                del self._open[path]
                self._finished += 1
            elif status in counts:
                counts[status] += 1
            if status == "failed":
                self._tell_failure(path, cell)
        done, stopped = self._done_before + self._finished, counts["interrupted"] + counts["killed"]
        return Tally(self._total, done, counts["running"], counts["failed"], stopped)

    def tell(self, *, at_once: bool = False) -> None:
        """Print the line of progress where it has changed, or nothing was said for long."""
        tally = self.look()
        now = time.monotonic()
        if self._first is None and tally.running + self._finished:
            self._first = now
        line = progress_line(tally, self._finished, now - self._first if self._first is not None else 0.0)
        counts = line.partition(";")[0]
        if not tally.done + tally.running + tally.failed + tally.stopped:
            line += self._trained()
        before, when = self._told or ("", float("-inf"))
        if at_once or (counts != before and now - when >= _TELL) or now - when >= _REMIND:
            self._told = (counts, now)
            say(line)

    def _status(self, cell: Cell) -> str | None:
        """As in the file; None for what an earlier run has left, ``killed`` where nobody works on a running cell."""
        folder = cell.folder()
        try:
            if (folder.path / "status.json").stat().st_mtime < self._written - 1:
                return None
        except OSError:
            return None
        status = folder.status()
        if status == "running" and not folder.is_held():
            status = folder.status()  # it may have been finished just then
            return "killed" if status == "running" else status
        return status

    def _tell_failure(self, path: Path, cell: Cell) -> None:
        error = cell.folder().error()
        if self._failures.get(path) != error:
            self._failures[path] = error
            first = next(iter(error.splitlines()), "")
            config = cell.config
            name = f"{config.method['name']}, source {shown(config.source)}, seed {cell.seed}"
            say(f"failed: {name}: {shown(first)} ({path / 'run.log'})")

    @cached_property
    def _models(self) -> list[RunConfig]:
        """A run of each source model that is needed; another sweep may train its own in the same folder."""
        from tta_bench.launch.workers import to_train

        return to_train(self._configs)

    def _trained(self) -> str:
        """How far the source models are."""
        from tta_bench.source.callbacks import EPOCH
        from tta_bench.source.train import read_if_sound, serves

        told = []
        needed = {(config.source, config.training.seed) for config in self._models}
        several = len({seed for _, seed in needed}) > 1
        for path in self._new(EPOCH):
            with suppress(OSError, ValueError):  # gone, or written, in the meantime
                reached = json.loads(path.read_text())
                if (reached["source"], reached["seed"]) in needed:
                    which = f", training seed {reached['seed']}," * several
                    told.append(
                        f"source model {reached['source']}{which} at epoch {reached['epoch']} of {reached['epochs']}"
                    )
        found = (read_if_sound(path) for path in self._new("model.ckpt"))
        trained = sum(any(serves(model, config) for config in self._models) for model in found if model is not None)
        told += [f"{trained} source model{'s' * (trained != 1)} trained"] * (trained > 0)
        return "".join(f"; {each}" for each in told)

    def _new(self, name: str) -> list[Path]:
        """Files of this name beside source models that were written since the run began."""
        found = []
        for path in sorted(path for root in self._roots for path in root.glob(f"source_models/*/{name}")):
            with suppress(OSError):  # gone in the meantime
                if path.stat().st_mtime >= self._written:
                    found.append(path)
        return found


@contextmanager
def watched(configs: Sequence[RunConfig]) -> Iterator[None]:
    """Tell how far a sweep is while the block runs, from a thread of its own, and once more afterwards."""
    watcher = Watcher(configs)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK):
            watcher.tell()

    watcher.tell(at_once=True)  # before anything that is said in the block
    thread = threading.Thread(target=watch, name="progress of the sweep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        watcher.tell(at_once=True)
