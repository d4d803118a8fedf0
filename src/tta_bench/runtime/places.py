"""Places to work at, of which a machine has a limited number: those of its GPUs, and those of its cores.

A place is a lock file in the machine's own temporary folder. So processes share places out whoever started them, and
the system frees that of a process that is killed.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tta_bench.errors import UserError

log = logging.getLogger(__name__)

_PATIENCE = 0.2  # seconds between two looks for a free place


def chosen_devices(visible: int, wanted: Sequence[int] | None) -> list[int]:
    """The GPUs to use.

    Args:
        visible: how many the process sees; ``CUDA_VISIBLE_DEVICES`` hides some and numbers the others from 0.
        wanted: their numbers; None: all.

    Raises:
        UserError: one of them is not there.
    """
    if wanted is None:
        return list(range(visible))
    if not set(wanted) <= set(range(visible)):
        there = f"{visible} usable GPU{'s' * (visible != 1)}"
        numbers = f", counted from 0 (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'all of them')})"
        raise UserError(
            f"launch.devices={list(wanted)}: PyTorch finds {there}{numbers if visible else ''}: name those, or "
            "use launch.devices=auto"
        )
    return list(wanted)


def device_places(devices: Sequence[int], per_device: int) -> list[tuple[int, int]]:
    """The places of GPUs as ``(device, place on it)``, the first of every device before any second."""
    return [(device, place) for place in range(per_device) for device in devices]


@contextmanager
def claimed(names: Sequence[str]) -> Iterator[int]:
    """Hold the first free one of some places; where all are taken, wait for one.

    Args:
        names: of the places on this machine; any characters but a slash.

    Yields:
        Its position in ``names``.
    """
    folder = Path(tempfile.gettempdir()) / f"tta_bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    locks = [FileLock(folder / f"{name}.lock") for name in names]
    waiting = False
    while True:
        for position, lock in enumerate(locks):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                yield position
            finally:
                lock.release()
            return
        if not waiting:
            log.info("waiting for one of %d places on this machine", len(names))
            waiting = True
        time.sleep(_PATIENCE)
