"""Names are text: how a name is found, shown and written down, whatever characters it has."""

from __future__ import annotations

import csv
import io
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from tta_bench.errors import UserError, shown

_EXECUTED = re.compile(r"'*[=+\-@\t\r]")
"""Cells that a spreadsheet takes for a formula, and those that only quotation marks tell from them."""


def find(name: str, names: Iterable[str]) -> str | None:
    r"""A name as it is spelt among others; composed and decomposed Unicode are the same.

    >>> find("Zu\u0308rich", ["Bern", "Zürich"])
    'Zürich'
    """
    names = list(names)
    if name in names:
        return name
    return next((each for each in names if normal(each) == normal(name)), None)


def normal(name: str) -> str:
    """The composed form, equal for all spellings of a name."""
    return unicodedata.normalize("NFC", name)


def distinct(name: str, taken: Iterable[str]) -> str:
    """What something that is no domain is called beside domains, none of which is called so.

    >>> distinct("average", ["A", "B"]), distinct("average", ["A", "average"])
    ('average', '(average)')
    """
    taken = set(taken)
    while name in taken:
        name = f"({name})"
    return name


def literal(text: str) -> Text:
    """Text that Rich prints as it is: no markup, no emoji codes, nothing that breaks the line."""
    return Text(shown(text))


def require_utf8(words: Sequence[str]) -> None:
    """Refuse words of a command line that no file or report could hold.

    Raises:
        UserError: naming each of them.
    """
    faults = [
        f"'{shown(word)}' is not UTF-8 text: rename the file or folder it stands for, and type the new name"
        for word in words
        if re.search("[\ud800-\udfff]", word)
    ]
    if faults:
        raise UserError(faults)


def print_everything() -> None:
    """Let the standard streams show what their encoding lacks as escapes, where they would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# CSV


def csv_file(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV that no spreadsheet executes: text that begins like a formula has a quotation mark before it.

    :func:`unguarded` takes it away again. Numbers are as they are; what a row lacks is empty.
    """
    text = io.StringIO(newline="")
    minimal, full = (csv.writer(text, quoting=how, lineterminator="\n") for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for line in (columns, *([row.get(column, "") for column in columns] for row in rows)):
        cells = [_guarded(cell) if isinstance(cell, str) else cell for cell in line]
        # The writer does not see that a lone carriage return ends a line for readers.
        (full if any(isinstance(cell, str) and "\r" in cell for cell in cells) else minimal).writerow(cells)
    return text.getvalue()


def _guarded(cell: str) -> str:
    return f"'{cell}" if _EXECUTED.match(cell) else cell


def unguarded(cell: str) -> str:
    """The text of a cell that :func:`csv_file` has written."""
    return cell[1:] if cell.startswith("'") and _EXECUTED.match(cell) else cell
