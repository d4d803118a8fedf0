"""Files that are whole or absent: written under a temporary name, flushed to the disk, renamed; and read with care."""

from __future__ import annotations

import errno
import glob
import io
import logging
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from tta_bench.errors import UserError

log = logging.getLogger(__name__)

RESULTS = "with results_root=DIR"
"""How another folder of results is chosen."""

LARGEST_INDEX = 8 * 2**20
"""Bytes of an archive's list of entries: 20 times that of a checkpoint of a large network."""

_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""What file systems without such a thing answer."""


@cache
def warn_once(logger: logging.Logger, sentence: str) -> None:
    """Warn of a damaged file, however often a command comes across it."""
    logger.warning("%s", sentence)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Make a file anew: yields a temporary path to write to, then flushes it to the disk and renames it to ``path``.

    A process that is killed, or a machine that loses its power, leaves the old file or the new one, never half of one;
    what it may leave beside it is in :func:`leftovers`.

    Raises:
        OSError: no space, no permission, or no such place; the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        with suppress(OSError):  # not every system can flush a folder
            flush(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes, key: str = RESULTS) -> None:
    """Write a file so that it is whole or absent, also after a crash.

    Args:
        path: the file; its folder is made.
        content: all of it.
        key: how another place is chosen, for the message.

    Raises:
        UserError: no space, no permission, or no such place.
    """
    with translate_os_errors(path.parent, key), replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
    finally:
        os.close(descriptor)


def leftovers(path: Path) -> Iterator[Path]:
    """Temporary files that killed processes have left of :func:`replacing` this path."""
    return path.parent.glob(f".{glob.escape(path.name)}.*")


def temporaries(folder: Path) -> list[Path]:
    """Files that :func:`replacing` is writing, or that a process killed meanwhile has left: the folder's lock tells."""
    return [path for path in folder.glob(".*") if path.suffix[1:].isdecimal()]


def move_aside(path: Path) -> None:
    """Rename a folder or pipe that lies where a file is about to be written, with a warning."""
    if os.path.lexists(path) and not path.is_file():
        other = path.with_name(f"{path.name}.aside")
        path.rename(other)
        log.warning("%s is no file: it is called %s now", path, other.name)


def file_fault(path: Path) -> str | None:
    """Why the content of a path cannot be read, as the end of a sentence; None for a file that can and is not empty.

    Nothing is opened that would block or never end, as a pipe or a device would.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return "is a folder"
        if not stat.S_ISREG(status.st_mode):
            return "is a pipe, a socket or a device, and no file"
        with path.open("rb"):
            return None if status.st_size else "is empty"
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except (OSError, ValueError) as error:  # the latter for a path with a NUL
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"


class _SmallReads(io.FileIO):
    """A file of which no large part is read at once, as ``zipfile`` does with a list of entries of any size."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file."""
        if size is not None and size > LARGEST_INDEX:
            raise zipfile.BadZipFile("its list of entries is too long")
        return super().read(size)


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive to read, in bounded memory.

    Raises:
        Exception: of many kinds for damaged ones, from ``BadZipFile`` over ``struct.error`` to NotImplementedError.
    """
    with _SmallReads(path) as file, zipfile.ZipFile(file) as archive:
        yield archive


@contextmanager
def translate_os_errors(folder: Path, key: str = RESULTS) -> Iterator[None]:
    """Turn a failing file system into a sentence that names the folder and the remedy, another one by ``key``."""
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
        errno.EISDIR: "a folder has the name of a file that belongs there: move that folder",
        errno.ELOOP: "its path is a circle of links: mend them",
        errno.ENOTEMPTY: "a folder has the name of a file that belongs there: move that folder",
    }
    try:
        yield
    except OSError as error:
        if error.errno not in reasons:
            raise
        raise UserError(f"cannot write to {folder}: {reasons[error.errno]}, or choose another folder {key}") from None
