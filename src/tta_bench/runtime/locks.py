"""Locks between processes that want the same result."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

log = logging.getLogger(__name__)

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def acquire_lock(path: Path, does_the_same: str) -> BaseFileLock:
    """Take a lock file, and say so before waiting for another process; the caller releases it.

    The system frees the lock of a process that is killed. In a folder that this process may not write to, what is
    there can only be read, and no lock is taken.

    Args:
        path: the lock file, in an existing folder.
        does_the_same: what the other process does, for the message.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process that %s (%s)", does_the_same, path.parent)
        lock.acquire()
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
    return lock  # releasing one that was not taken does nothing


def is_free(path: Path) -> bool:
    """Whether no process holds a lock file; False also where that cannot be found out."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return False
    lock.release()
    return True
