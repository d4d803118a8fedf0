"""Decode many images side by side, in order and within a budget of memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Condition

from tta_bench.data.readers.base import Record, Sample
from tta_bench.errors import UserError

_CHUNK = 64  # images decoded ahead, at most
_MEMORY = 2**30  # bytes for images that are being decoded, and again for those that wait to be used


def decode(records: Sequence[Record], size: int) -> Generator[Sample | UserError, None, None]:
    """The samples of some records in their order, or the faults of those that have any.

    Args:
        records: decoded in parallel.
        size: side in pixels to which they are resized.
    """
    budget = _Budget(_MEMORY)

    def read(record: Record) -> Sample | UserError:
        try:
            with budget.hold(record.memory(size)):
                return record.read(size)
        except UserError as error:
            return error

    ahead = max(1, min(_CHUNK, _MEMORY // (4 * size * size)))
    # Threads suffice: Pillow decodes and resizes without the interpreter lock.
    with ThreadPoolExecutor(min(ahead, os.cpu_count() or 1)) as pool:
        for start in range(0, len(records), ahead):
            yield from pool.map(read, records[start : start + ahead])


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
