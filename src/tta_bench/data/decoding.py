"""Decode many images side by side, in order and within a budget of memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition

import numpy as np

from tta_bench.data.images import value_counts
from tta_bench.data.ragged import packed
from tta_bench.data.readers.base import Record, Sample
from tta_bench.errors import UserError
from tta_bench.ops.geometry import Geometry

_CHUNK = 64  # images decoded ahead, at most
_MEMORY = 2**30  # bytes for images that are being decoded, and again for those that wait to be used


@dataclass(frozen=True)
class Fitted:
    """What is kept of a sample.

    Attributes:
        image: uint8 or float32 ``[height, width, 3]``, RGB, as :meth:`~tta_bench.ops.geometry.Geometry.image` keeps it.
        mask: uint8 ``[height, width]``, mask values; None without a mask.
        height: of the image as stored, pixels.
        width: likewise.
        counts: pixels of each mask value that occurs before resizing, ascending by value; empty without a mask.
        spacing: of the sample.
        truth: the mask as stored, :func:`~tta_bench.data.ragged.packed`; None where it is not asked for.
        truth_sha256: of its values.
    """

    image: np.ndarray
    mask: np.ndarray | None
    height: int
    width: int
    counts: Mapping[int, int]
    spacing: tuple[float, float, float] | None = None
    truth: bytes | None = None
    truth_sha256: bytes = b""


def fitted(sample: Sample, geometry: Geometry, truth: bool = False) -> Fitted:
    """Bring a sample to the network's size.

    Args:
        sample: as a record reads it.
        geometry: how.
        truth: whether its mask is kept as stored, too.
    """
    height, width = sample.image.shape[:2]
    image, mask = geometry.image(sample.image), sample.mask
    if mask is None:
        return Fitted(image, None, height, width, {}, sample.spacing)
    kept = Fitted(image, geometry.mask(mask), height, width, value_counts(mask), sample.spacing)
    if not truth:
        return kept
    stored = np.ascontiguousarray(mask)
    return Fitted(**vars(kept) | {"truth": packed(stored), "truth_sha256": hashlib.sha256(stored.tobytes()).digest()})


def decode(
    records: Sequence[Record], geometry: Geometry, truth: bool = False
) -> Generator[Fitted | UserError, None, None]:
    """What is kept of some records in their order, or the faults of those that have any.

    Args:
        records: decoded in parallel.
        geometry: how they are brought to the network's size.
        truth: whether their masks are kept as stored, too.
    """
    budget = _Budget(_MEMORY)

    def read(record: Record) -> Fitted | UserError:
        try:
            with budget.hold(record.memory(geometry.side)):
                return fitted(record.read(geometry.side), geometry, truth)
        except UserError as error:
            return error

    # Threads suffice: Pillow decodes and resizes without the interpreter lock.
    with ThreadPoolExecutor(min(_CHUNK, os.cpu_count() or 1)) as pool:
        for chunk in _chunks(records, geometry):
            yield from pool.map(read, chunk)


def _chunks(records: Sequence[Record], geometry: Geometry) -> Iterator[list[Record]]:
    """As many records at a time as may wait to be used together; of images that are kept as stored fewer."""
    chunk: list[Record] = []
    waiting = 0
    for record in records:
        needed = 4 * geometry.side**2 if geometry.fit != "tile" else record.memory(geometry.side)
        if chunk and (len(chunk) == _CHUNK or waiting + needed > _MEMORY):
            yield chunk
            chunk, waiting = [], 0
        chunk.append(record)
        waiting += needed
    if chunk:
        yield chunk


class _Budget:
    """Lets threads work side by side as long as what they need together fits; a single one always may.

    Args:
        total: bytes.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._held = 0
        self._changed = Condition()

    @contextlib.contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait for ``amount`` bytes, and give them back afterwards."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + amount <= self._total)
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()
