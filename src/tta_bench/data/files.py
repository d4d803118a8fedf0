"""Files as people have them: names in either Unicode form, what systems leave, and what only looks like a file."""

from __future__ import annotations

import os
import stat
import unicodedata
from pathlib import Path

from tta_bench.errors import UserError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_LEFT_BY_SYSTEMS = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin")


def is_own(name: str) -> bool:
    """Whether an entry of a folder is anybody's file or folder: not hidden, and not left there by a system.

    >>> [is_own(name) for name in ("a.png", ".DS_Store", "._a.png", "Thumbs.db")]
    [True, False, False, False]
    """
    return not name.startswith(".") and name.lower() not in _LEFT_BY_SYSTEMS


def listed(folder: Path) -> list[Path]:
    """The entries of a folder that :func:`is_own` holds for, sorted by name.

    Raises:
        UserError: it cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if is_own(path.name))
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): mend its permissions") from None


def require_file(path: Path) -> int:
    """Refuse what is no regular file before it is opened: opening a pipe would block.

    Returns:
        Its size in bytes.

    Raises:
        UserError: it is missing, out of reach or of another kind.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: restore it, or remove its entry") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend or remove it") from None
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise UserError(f"{path} cannot be read (it is {kind}, not a file): put a file in its place or remove it")
    return status.st_size


def on_disk(root: Path, entry: str) -> Path:
    """``root / entry``, or the file that is there under the other Unicode form of this name."""
    spellings = (entry, *(unicodedata.normalize(form, entry) for form in ("NFC", "NFD")))
    return next((path for name in spellings if os.path.lexists(path := root / name)), root / entry)


def is_text(name: str) -> bool:
    """Whether a name of the file system is UTF-8, so that it can be written into results."""
    return not any("\udc80" <= letter <= "\udcff" for letter in name)


def printable(path: Path | str) -> str:
    r"""A path with its bytes that are not UTF-8 escaped, as ``caf\xe9.png``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
