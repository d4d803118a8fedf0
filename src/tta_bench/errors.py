"""Errors that are the user's to mend: shown as sentences, without a traceback, with exit code 2."""

from __future__ import annotations

import difflib
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """Bad input, refused before work starts.

    Args:
        faults: one sentence, or one per fault; each names the file or key and the remedy.
    """

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults: tuple[str, ...] = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(self.faults))


def print_faults(error: UserError) -> None:
    """One line per fault on standard error."""
    for fault in error.faults:
        print(f"error: {shown(fault)}", file=sys.stderr)


def folded(faults: Sequence[str], first: int = 3) -> tuple[str, ...]:
    """Faults that differ in names of files and in numbers alone put together: the first ones, and how many more."""
    kinds: dict[str, list[str]] = {}
    for fault in faults:
        kinds.setdefault(re.sub(r"\S*(?:[/\\\d]|\.\w)\S*", "", fault), []).append(fault)
    lines: list[str] = []
    for same in kinds.values():
        lines += same[:first] if len(same) > first + 1 else same
        if len(same) > first + 1:
            lines.append(f"... and {len(same) - first} more of this kind, the last: {same[-1]}")
    return tuple(lines)


def shown(text: str) -> str:
    r"""Text on one line of a terminal: characters that would break or recolour it, or that have no code, as escapes.

    >>> shown("Zürich\n[red]")
    'Zürich\\n[red]'
    """
    hidden = ("Cc", "Cs", "Zl", "Zp")  # controls, surrogates, line and paragraph separators
    return "".join(
        mark.encode("unicode_escape").decode() if unicodedata.category(mark) in hidden else mark for mark in text
    )


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest valid one if there is one, else the list of all.

    >>> nearest("grta", ["tent", "grata"])
    "did you mean 'grata'?"
    """
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"choose one of: {', '.join(names)}" if names else "there is none to choose from"


def nearest_key(key: str, siblings: Iterable[str]) -> str:
    """As :func:`nearest` for a dotted key of which the last part is unknown; the hint is a whole key.

    >>> nearest_key("data.limt", ["limit", "root"])
    "did you mean 'data.limit'?"
    """
    parent, dot, leaf = key.rpartition(".")
    hint = nearest(leaf, siblings)
    return hint.replace("mean '", f"mean '{parent}{dot}", 1)
