"""Which files of a release belong together: patterns with named fields, and the list of files that they look through.

A pattern is a path relative to the release: ``**/`` stands for any folders, ``*`` for any part of a name, ``?`` for one
character, and ``{field}`` for a part of a name that is remembered, ``{field:regular expression}`` for a narrower one.
Upper and lower case are the same, since copies of releases differ in them.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from tta_bench.data.files import is_own, is_text
from tta_bench.errors import UserError

_TOKEN = re.compile(r"\*\*/|\*|\?|\{(\w+)(?::((?:[^{}]|\{[^{}]*\})+))?\}")


class Files:
    """The files below a folder, apart from what is hidden or left by operating systems.

    Args:
        root: of the release.

    Attributes:
        names: paths relative to the root, with slashes, sorted.

    Raises:
        UserError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        if not os.path.isdir(root):
            what = "is a file: unpack it first" if os.path.exists(root) else "does not exist"
            raise UserError(f"{root} {what}; give the folder of the release as it is downloaded and unpacked")
        self.names = tuple(sorted(_below(root)))
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self._by_name[name.rpartition("/")[2].lower()].append(name)

    def matching(self, patterns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
        """The files that match one of some patterns, sorted, each with the fields of the first that it matches."""
        found: dict[str, dict[str, str]] = {}
        for pattern in patterns:
            expression = _expression(pattern, ())
            for name in self.names:
                if name not in found and (match := expression.fullmatch(name)):
                    found[name] = match.groupdict()
        return sorted(found.items())

    def find(self, patterns: Sequence[str], fields: Mapping[str, str]) -> list[str]:
        """The files that match the first of some patterns that any matches, with the values of its fields given."""
        for pattern in patterns:
            expression = _expression(pattern, tuple(sorted(fields.items())))
            last = filled(pattern.rpartition("/")[2], fields)
            names = self.names if _TOKEN.search(last) else self._by_name.get(last.lower(), ())
            if found := [name for name in names if expression.fullmatch(name)]:
                return found
        return []


def filled(pattern: str, fields: Mapping[str, str]) -> str:
    """A pattern with the fields whose values are given.

    >>> filled("{patient}/{patient}_*.nii", {"patient": "A1"})
    'A1/A1_*.nii'
    """
    return _TOKEN.sub(lambda token: fields.get(token[1], token[0]) if token[1] else token[0], pattern)


def fields_of(pattern: str) -> set[str]:
    """The names of the fields of a pattern."""
    return {token[1] for token in _TOKEN.finditer(pattern) if token[1]}


@cache
def _expression(pattern: str, fields: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    """The regular expression of a pattern; fields without a value are captured."""
    given = dict(fields)
    text, place, captured = "", 0, set[str]()
    for token in _TOKEN.finditer(pattern):
        text += re.escape(pattern[place : token.start()])
        place = token.end()
        field = token[1]
        if field is None:
            text += {"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}[token[0]]
        elif field in given:
            text += re.escape(given[field])
        elif field in captured:
            text += f"(?P={field})"
        else:
            captured.add(field)
            text += f"(?P<{field}>{token[2] or '[^/]+?'})"
    try:
        return re.compile(text + re.escape(pattern[place:]), re.IGNORECASE)
    except re.error as error:
        raise UserError(
            f"the recipe's pattern '{pattern}' has no valid regular expression in a field: {error}"
        ) from None


def _below(root: Path) -> Iterator[str]:
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if is_own(name) and is_text(name)]
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        yield from (
            name if relative == "." else f"{relative}/{name}" for name in files if is_own(name) and is_text(name)
        )
