"""The CSV lists of the paper's authors: which image belongs to which mask, and why a list cannot be read."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from tta_bench.data.files import on_disk, require_file
from tta_bench.errors import UserError, nearest

COLUMNS = ("image", "mask")
_DELIMITERS = {";": "';'", "\t": "tabs", "|": "'|'", " ": "spaces"}
_LARGEST = 64 * 2**20  # bytes; a list of a million pairs is smaller


class ListedPair(NamedTuple):
    """A row of a list: two paths relative to its folder."""

    image: str
    mask: str


class Row(NamedTuple):
    """A row of a table."""

    where: str  # file and line, for messages
    fields: Sequence[str]  # as they stand there
    entries: Mapping[str, str]  # column -> field, without the blanks around it unless they are part of a file's name


def read_list(path: Path) -> list[ListedPair]:
    """The rows of a CSV file with the columns ``image`` and ``mask``, in order.

    Raises:
        UserError: with every fault of the file, or the one that hides the others.
    """
    rows, faults = read_table(path, COLUMNS)
    pairs: list[ListedPair] = []
    for row in rows:
        entries = {column: row.entries[column] for column in COLUMNS}
        pairs.append(ListedPair(**entries))
        for column, entry in entries.items():
            if fault := _entry_fault(path.parent, column, entry, row.fields):
                faults.append(f"{row.where}: {fault}")
    if faults:
        raise UserError(faults)
    return pairs


def read_table(path: Path, required: Sequence[str]) -> tuple[list[Row], list[str]]:
    """The rows of a CSV file in order, and the faults of those that cannot be told apart into columns.

    Args:
        path: the file.
        required: columns that it must have; others may be there.

    Raises:
        UserError: what is wrong with the file as a whole.
    """
    text = _text(path)
    _require_commas(path, text, required)
    rows = list(_rows(path, text))
    columns = [column.strip() for column in rows[0][1]] if rows else []
    _require_columns(path, columns, required)
    if len(rows) == 1:
        raise UserError(f"{path} lists no image: add rows below its header")
    faults: list[str] = []
    read: list[Row] = []
    for line, fields in rows[1:]:
        where = f"{path}, line {line}"
        if any(field.strip() for field in fields[len(columns) :]):
            faults.append(
                f"{where}: {len(fields)} fields where the header has {len(columns)}: put a name with a comma into "
                "double quotes"
            )
            continue
        row = dict(zip(columns, fields, strict=False))
        read.append(Row(where, fields, {column: _entry(path.parent, row.get(column, "")) for column in columns}))
    return read, faults


def _is_half(path: Path) -> bool:
    """Whether another list lists the rest of the same domain."""
    return path.stem.endswith(("_train", "_test"))


def _text(path: Path) -> str:
    """The decoded file.

    Raises:
        UserError: it is not there, no file, too large, or not UTF-8 text.
    """
    if not os.path.lexists(path):
        raise UserError(f"{path} does not exist: add it{', _train.csv and _test.csv belong together' * _is_half(path)}")
    size = require_file(path)
    if size > _LARGEST:
        raise UserError(f"{path} has {size / 2**20:.0f} MiB, which is no list of images: replace it")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend its permissions") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path} is UTF-16 text: save it as CSV in UTF-8")
    if (place := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, place) + 1
        raise UserError(
            f"{path}, line {line}: there is a NUL byte, so the file is damaged or UTF-16: save it as CSV in UTF-8"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: byte {error.start} is not UTF-8: save it as CSV in UTF-8") from None


def _require_commas(path: Path, text: str, required: Sequence[str]) -> None:
    """Refuse another delimiter, as some spreadsheets write."""
    header = text.lstrip().partition("\n")[0].replace('"', "")
    for mark, name in _DELIMITERS.items():
        if mark in header and set(required) <= {column.strip() for column in header.split(mark)}:
            raise UserError(f"{path} is separated by {name}: save it as CSV with commas ({','.join(required)})")


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of its last line.

    Raises:
        UserError: the quotes do not match, or a field is longer than any path.
    """
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    before = 0
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
            before = reader.line_num
    except csv.Error as error:
        raise UserError(
            f"{path}, line {before + 1}: this row cannot be read ({error}): close each double quote that it opens, and "
            "double those that are part of a name"
        ) from None


def _require_columns(path: Path, columns: list[str], required: Sequence[str]) -> None:
    """Refuse a header without the required columns, or with one of them twice."""
    faults = [
        f"{path} has {count} columns '{column}': leave one of them"
        for column, count in Counter(columns).items()
        if count > 1 and column in required
    ]
    there = ", ".join(columns) or "none"
    faults += [
        f"{path} has no column '{column}' (columns found: {there}): rename the right one, {nearest(column, columns)}"
        for column in required
        if column not in columns
    ]
    if faults:
        raise UserError(faults)


def _entry(root: Path, field: str) -> str:
    """A field without the blanks around it, unless they are part of a file's name."""
    return field if os.path.lexists(on_disk(root, field)) else field.strip()


def _entry_fault(root: Path, column: str, entry: str, fields: Sequence[str]) -> str | None:
    """What is wrong with an entry, whether or not its file is there."""
    if not entry:
        marks = [name for mark, name in _DELIMITERS.items() if mark != " " and mark in "".join(fields)]
        hint = f", its row seems to be separated by {marks[0]}" if marks else ""
        return f"column '{column}' is empty{hint}: fill it or remove the row"
    if PurePosixPath(entry).is_absolute() or PureWindowsPath(entry).is_absolute() or ".." in Path(entry).parts:
        return f"{column} '{entry}' leaves data.root: list a path inside it"
    if os.path.lexists(on_disk(root, entry)):
        return None
    if "\\" in entry:
        slashes = entry.replace("\\", "/")
        return f"{column} '{entry}' has backslashes: write '{slashes}'"
    if "\n" in entry or "\r" in entry:
        return f"{column} holds a line break ({entry!r}): close the double quote that its row opens"
    return None
