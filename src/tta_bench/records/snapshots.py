"""How far a run along its streams has come, kept on disk so that a killed one goes on where it stopped."""

from __future__ import annotations

import hashlib
import logging
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Generic, Protocol, Self, TypeVar

import torch

from tta_bench.data.streams import StreamImage
from tta_bench.records.predictions import Predictions
from tta_bench.records.scores import ImageRecord
from tta_bench.runtime.files import replacing
from tta_bench.runtime.torch_file import TorchFileError, read_torch_file

log = logging.getLogger(__name__)

SNAPSHOT_SECONDS = 10.0
"""Shortest time between two snapshots of a run."""

SNAPSHOT_SHARE = 0.02
"""Largest part of a run's time that its snapshots take, beyond the first."""


class Content(Protocol):
    """What tells how far something has come."""

    def content(self) -> dict[str, Any]:
        """The same as tensors and plain values."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Self:
        """The one with this content."""


Kept = TypeVar("Kept", bound=Content)


@dataclass(frozen=True)
class Snapshot:
    """How far a run has come."""

    groups: list[list[int]]  # of each part begun so far, how many streams its groups have; the last is the present one
    steps: int  # images that each stream of the present group has seen, unless it has ended
    before: int  # records when the present group began
    counters: list[int]  # of the method then
    records: list[ImageRecord]  # of all images so far
    state: dict[str, Any]  # of the method, from :meth:`Method.state_dict`
    forwards: int  # of the network so far

    def content(self) -> dict[str, Any]:
        """The same as tensors and plain values."""
        masks = Predictions.joined([record.prediction for record in self.records])
        records = [
            {name: value for name, value in vars(r).items() if name != "prediction"} | {"place": vars(r.place)}
            for r in self.records
        ]
        predictions = {"bits": torch.from_numpy(masks.bits), "shapes": [list(shape) for shape in masks.shapes]}
        return {**vars(self), "records": records, "predictions": predictions}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Snapshot:
        """The snapshot with this content."""
        parts = dict(content)
        stored = parts.pop("predictions")
        masks = Predictions(stored["bits"].numpy(), tuple(map(tuple, stored["shapes"]))).each()
        records = [
            ImageRecord(place=StreamImage(**record.pop("place")), prediction=mask, **record)
            for mask, record in zip(masks, parts.pop("records"), strict=True)
        ]
        return cls(records=records, **parts)


class ProgressFile(Generic[Kept]):
    """How far something has come, on disk.

    Args:
        path: the file, replaced each time.
        key: all that two runs must have in common for one to go on where the other stopped; plain values.
        kind: of what is kept.
        first: seconds until the first one; None: as between two.
    """

    def __init__(self, path: Path, key: Mapping[str, Any], kind: type[Kept], first: float | None = None) -> None:
        self.path = path
        self.key = dict(key)
        self._kind = kind
        self._due = monotonic() + (SNAPSHOT_SECONDS if first is None else first)

    def read(self) -> Kept | None:
        """The snapshot; None if there is none, and with a warning if it is broken or of another key."""
        if not self.path.exists():
            return None
        try:
            content = read_torch_file(self.path, device=None)
            key = content.pop("key")
            others = sorted(name for name in self.key | key if self.key.get(name) != key.get(name))
            if not others:
                return self._kind.of(content)
            reason = f"it differs in {', '.join(others)}"
        except TorchFileError as error:
            reason = f"it cannot be read: it {error.reason}"
        except Exception as error:  # whole, but of another content
            reason = f"it cannot be read, {type(error).__name__}"
        log.warning("ignoring the snapshot %s (%s): adapting from the first image", self.path, reason)
        return None

    def keep(self, snapshot: Callable[[], Kept]) -> None:
        """Write a snapshot if it is time; where that is not possible the run goes on without."""
        begin = monotonic()
        if begin < self._due:
            return
        try:
            with replacing(self.path) as temporary:
                torch.save({"key": self.key, **snapshot().content()}, temporary)
        except (TypeError, OSError, RuntimeError) as error:  # the last is what torch.save makes of a full disk
            log.warning("no snapshots, this run cannot be resumed if it is killed: %s", error)
            self._due = math.inf
            return
        end = monotonic()
        self._due = end + max(SNAPSHOT_SECONDS, (end - begin) / SNAPSHOT_SHARE)


class SnapshotFile(ProgressFile[Snapshot]):
    """The latest snapshot of a run; see :class:`ProgressFile`."""

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        super().__init__(path, key, Snapshot)


def code_digest(kind: type) -> str:
    """SHA-256 of the source files of this package and of those that define a method's classes."""
    modules = (sys.modules.get(each.__module__) for each in kind.__mro__)
    files = {Path(file) for module in modules if (file := getattr(module, "__file__", None))}
    digest = hashlib.sha256()
    for file in sorted(files | set(Path(__file__).parents[1].rglob("*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()
