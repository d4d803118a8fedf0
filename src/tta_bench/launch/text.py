r"""What a user types as a name or a path, in Hydra's grammar, which would read numbers, lists and syntax into it.

The grammar of these values is small: commas separate them, and whatever is in quotation marks, or follows a backslash
where a comma does, is text. What is at hand under the typed name (a domain, a file) is meant, commas or not.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from hydra.core.override_parser.types import Quote, QuotedString
from pydantic import BaseModel

from tta_bench.schema import RunConfig
from tta_bench.sinks.base import SINKS

Known = Callable[[str], str | None]
"""From what is typed to the name of something at hand, None if there is nothing of that name."""

_PLAIN = re.compile(r"[A-Za-z_/][\w/.-]*", re.ASCII)
_KEYWORDS = ("null", "true", "false", "inf", "nan")
_LONGEST, _MARKS_IN_NAMES = 4096, 32  # characters of a path, commas in a name that need no quotation marks
_SWEEP = re.compile(r"(choice|shuffle|sort)\((.*)\)", re.DOTALL)
_REFERENCE = re.compile(rf"\$\{{(?:oc\.env:\w|(?:{'|'.join(RunConfig.model_fields)})[.}}])")


def _texts(model: type[BaseModel], prefix: str = "") -> dict[str, tuple[type, bool]]:
    """Dotted keys whose values are names or paths -> ``str`` or ``Path``, and whether they may be null."""
    texts: dict[str, tuple[type, bool]] = {}
    for key, field in model.model_fields.items():
        kind: Any = field.annotation
        kinds = {*_leaves(kind)}
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            texts |= _texts(kind, f"{prefix}{key}.")
        elif kinds <= {str, Path, type(None)}:
            texts[f"{prefix}{key}"] = (Path if Path in kinds else str, type(None) in kinds)
    return texts


def _leaves(kind: Any) -> list[Any]:
    """The types of a union, without what is annotated to them."""
    if hasattr(kind, "__metadata__"):
        return _leaves(kind.__origin__)
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    return [leaf for part in parts for leaf in _leaves(part)] if parts else [kind]


@cache
def text_kind(key: str) -> tuple[type, bool] | None:
    """``str`` or ``Path`` of a key whose value is one name or path, and whether it may be null; None of other keys."""
    return (_logger_texts() if key.startswith("logger.") else _texts(RunConfig)).get(key)


def _logger_texts() -> dict[str, tuple[type, bool]]:
    """Those of the sinks, which take a while to import."""
    return {
        key: kind for sink in SINKS.names() for key, kind in _texts(SINKS.get(sink).options, f"logger.{sink}.").items()
    }


def known_path(text: str) -> str | None:
    """A path as it is typed, if something lies there."""
    return text if text and os.path.lexists(os.path.expanduser(text)) else None


def unknown(text: str) -> None:
    """Nothing is at hand."""


def quote(key: str, text: str, known: Known = unknown) -> str:
    """``KEY=…`` in Hydra's grammar for a key that has a :func:`text_kind`; commas make a sweep."""
    named = text_kind(key)
    assert named is not None
    kind, optional = named

    def element(value: str | None) -> str:
        if value is None:
            return "null" if optional or kind is Path else hydra_text("null")
        if kind is Path and known(value) is None and _REFERENCE.search(value):
            return QuotedString(value, Quote.single).with_quotes()  # to other keys, or to the environment
        return hydra_text(os.path.expanduser(value) if kind is Path and value.startswith("~/") else value)

    if key == "results_root":  # need not be there yet, and no two of them are compared
        return f"{key}={element(_Scanner(text, known).scalar(''))}"
    function, inner = _swept(text, known)
    values = ",".join(map(element, split(inner, known)))
    return f"{key}={function}({values})" if function else f"{key}={values}"


def quote_lists_of_names(key: str, text: str, known: Known = unknown) -> str:
    """``KEY=[…]`` for one list of names; ``[A,C],[B]`` and ``choice([A],[B])`` sweep over several.

    Raises:
        ValueError: brackets that do not match.
    """
    function, inner = _swept(text, known)
    scanner = _Scanner(inner, known)
    if scanner.starts("[") and known(inner) is None:
        lists = scanner.several(lambda: scanner.items(scanner.scalar))
    else:
        names = split(inner, known)
        if names == [None]:
            return f"{key}=null"
        lists = [[name for name in names if name != ""]]
    values = ",".join(
        f"[{','.join(hydra_text('null' if name is None else name) for name in group)}]" for group in lists
    )
    return f"{key}={function}({values})" if function else f"{key}={values}"


def quote_mappings(key: str, text: str) -> str:
    """``KEY='{…}'``: a mapping, or each one of a sweep, as JSON in text, which replaces the default.

    Raises:
        ValueError: not such text.
    """
    scanner = _Scanner(text, unknown)
    if not scanner.starts("{"):  # quoted as a whole
        scanner = _Scanner(scanner.scalar("") or "", unknown)
    values = scanner.several(scanner.mapping)
    return f"{key}=" + ",".join(quoted(json.dumps(value, ensure_ascii=False)) for value in values)


def hydra_text(text: str) -> str:
    """A value that Hydra reads as this text, whatever it is."""
    if _PLAIN.fullmatch(text) and text.lower() not in _KEYWORDS:
        return text
    return quoted(text)


def quoted(text: str) -> str:
    """In Hydra's quotation marks, and with what OmegaConf would interpolate escaped."""
    return QuotedString(escaped(text), Quote.single).with_quotes()


def escaped(text: str) -> str:
    """Text that OmegaConf resolves to this one."""
    return re.sub(r"(\\*)\$\{", lambda marks: rf"{marks[1] * 2}\${{", text)


def split(text: str, known: Known = unknown) -> list[str | None]:
    r"""The names in a text, None for an unquoted ``null``; the longest names at hand, else what is between commas.

    >>> split("A, 'B,C', D\\,E")
    ['A', 'B,C', 'D,E']
    """
    scanner = _Scanner(text, known)
    return scanner.several(lambda: scanner.scalar(","))


def _swept(text: str, known: Known) -> tuple[str, str]:
    """The function of a sweep and its arguments; no function where there is none."""
    sweep = None if known(text) else _SWEEP.fullmatch(text)
    return (sweep[1], sweep[2]) if sweep else ("", text)


class _Scanner:
    """Reads a text from left to right.

    Args:
        text: to be read.
        known: finds what is at hand.
    """

    def __init__(self, text: str, known: Known) -> None:
        self._text = text
        self._known = known
        self._at = 0

    def starts(self, mark: str) -> bool:
        """Whether the next mark, after blanks, is this one."""
        return self._text[self._at :].lstrip().startswith(mark)

    def several(self, read: Callable[[], Any]) -> list[Any]:
        """All that is left, separated by commas.

        Raises:
            ValueError: something else follows.
        """
        values = [read()]
        while self._at < len(self._text):
            self._expect(",")
            values.append(read())
        return values

    def items(self, read: Callable[[str], Any]) -> list[Any]:
        """A list in brackets; ``read`` is given the marks that end one of its values."""
        self._expect("[")
        values: list[Any] = []
        while not self.starts("]"):
            if values:
                self._expect(",")
            values.append(read(",]"))
        self._expect("]")
        return values

    def mapping(self) -> dict[str, Any]:
        """A mapping from names."""
        self._expect("{")
        values: dict[str, Any] = {}
        while not self.starts("}"):
            if values:
                self._expect(",")
            key = self.scalar(":,}")
            self._expect(":")
            values["null" if key is None else key] = self.value(",}")
        self._expect("}")
        return values

    def value(self, stops: str) -> Any:
        """A list, with numbers where its values read like some, or text up to one of the marks."""
        if self.starts("["):
            return [_number(item) for item in self.items(self.scalar)]
        return self.scalar(stops)

    def scalar(self, stops: str) -> str | None:
        """Text up to one of the marks, or to the end; None for an unquoted ``null``."""
        rest = self._text[self._at :]
        known = self._known_to(stops)
        if known is not None:
            name, length = known
            self._at += length
            return name
        end = rf"\s*(?=[{re.escape(stops)}]|\Z)" if stops else r"\s*\Z"
        quotes = re.compile(rf"""\s*(['"])((?:\\.|(?!\1)[^\\])*)\1{end}""", re.DOTALL).match(rest)
        if quotes:
            self._at += quotes.end()
            # As in Hydra's grammar: backslashes are special before a quotation mark alone.
            runs = re.compile(rf"(\\+)(?={quotes[1]}|\Z)")
            return runs.sub(lambda run: "\\" * (len(run[1]) // 2), quotes[2])
        if not stops:
            self._at = len(self._text)
            return None if rest.strip().lower() == "null" else rest
        marks = re.escape(stops)
        plain = re.compile(rf"(?:\\[{marks}]|[^{marks}])*", re.DOTALL).match(rest)
        assert plain is not None
        self._at += plain.end()
        text = re.sub(rf"\\([{marks}])", r"\1", plain[0]).strip()
        return None if text.lower() == "null" else text

    def _known_to(self, stops: str) -> tuple[str, int] | None:
        """The longest name at hand from here to one of the marks or the end, and how much of the text it is."""
        rest = self._text[self._at :]
        marks = re.finditer(f"[{re.escape(stops)}]", rest) if stops else ()
        ends = [mark.start() for mark in islice(marks, _MARKS_IN_NAMES)]
        ends = [*([len(rest)] if len(rest) <= _LONGEST else []), *reversed(ends)]
        typed = [*((end, rest[:end]) for end in ends), *((end, rest[:end].strip()) for end in ends)]
        for end, text in typed:
            name = self._known(text)
            if name is not None:
                return name, end
        return None

    def _expect(self, mark: str) -> None:
        blanks = len(self._text[self._at :]) - len(self._text[self._at :].lstrip())
        if self._text[self._at + blanks : self._at + blanks + 1] != mark:
            raise ValueError(f"'{mark}' is missing in {self._text}")
        self._at += blanks + 1
        if mark in "]}":  # what separates it from the next
            self._at += len(self._text[self._at :]) - len(self._text[self._at :].lstrip())


def _number(item: str | None) -> int | str | None:
    return int(item) if item is not None and re.fullmatch(r"[+-]?\d+", item, re.ASCII) else item
