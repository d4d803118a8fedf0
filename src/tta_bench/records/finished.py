"""What the files of a finished cell must hold for its numbers to count."""

from __future__ import annotations

import csv
import io
import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tta_bench.records.examination import Examination, Percent
from tta_bench.runtime.files import file_fault
from tta_bench.runtime.names import unguarded

LARGEST_TEXT = 256 * 2**20
"""Bytes of a text file of a cell, some hundred thousand images."""

TOLERANCE = 1e-6
"""Percent by which a mean that was summed in another order may differ."""

NAMES = ("source", "target", "method", "image", "case")
"""Columns of ``per_image.csv`` that are text; all others are numbers, or empty where a method has none."""

Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
_OPTIONAL: TypeAdapter[float | None] = TypeAdapter(Percent | None, config=ConfigDict(strict=True, allow_inf_nan=False))


class DamagedError(Exception):
    """A file of a finished cell cannot be used; the message names it and says why."""


class _Part(BaseModel):
    """Types are taken as they are, never converted; further keys are allowed."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Target(_Part):
    n: Annotated[int, Field(ge=1)]
    dice: Percent | None  # null where the class is in no image, and those are skipped
    seconds_per_image: Amount

    @model_validator(mode="after")
    def _classes_have_a_dice(self) -> _Target:
        classes = [value for key, value in (self.model_extra or {}).items() if key.startswith("dice_")]
        if not classes:
            raise ValueError("no class has a Dice")
        for value in classes:
            _OPTIONAL.validate_python(value)
        return self


class _SourceCheckpoint(_Part):
    model_config = ConfigDict(extra="forbid")

    path: str
    sha256: str
    dice_in_domain: Percent | None
    examination: Examination | None = None  # also where none was possible


class _Summary(_Part):
    method: str
    source: str
    seed: int
    protocol: dict[str, Any]
    targets: Annotated[dict[str, _Target], Field(min_length=1)]
    dice: Percent | None
    skipped_updates: Count
    seconds_per_image: Amount
    forwards_per_image: Amount
    backwards_per_image: Amount
    peak_memory_mb: Amount
    source_checkpoint: _SourceCheckpoint
    data: dict[str, str]
    versions: dict[str, Any]
    metrics: dict[str, str] = {"dice": ""}  # before there were others

    @model_validator(mode="after")
    def _metrics_are_there(self) -> _Summary:
        for part in (self, *self.targets.values()):
            content = part.model_dump()
            missing = [name for name in self.metrics if not isinstance(content.get(name, ""), int | float | None)]
            if missing:
                raise ValueError(f"it has no {missing[0]}")
            if self.protocol.get("empty") != "skip" and any(
                value is None and key.partition("_")[0] == "dice" for key, value in content.items()
            ):
                raise ValueError("a Dice has no value, though no empty mask is skipped")
        return self


def read_summary(path: Path) -> dict[str, Any]:
    """The content of ``summary.json``; a metric without a value, null there, is NaN.

    Raises:
        DamagedError: it cannot be read, or something is missing or of another type.
    """
    content = read_json(path)
    try:
        _Summary.model_validate(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, fault["loc"])) or "its content"
        value = "" if fault["type"] == "missing" else f"={reprlib.repr(fault['input'])[:80]}"
        raise DamagedError(f"{path} ({key}{value}: {fault['msg'].lower()})") from None
    if content["data"].keys() != content["targets"].keys():
        raise DamagedError(f"{path} (targets and data name other domains)")
    of_targets = [math.nan if target["dice"] is None else target["dice"] for target in content["targets"].values()]
    if not _is_mean(content["dice"], of_targets):
        raise DamagedError(f"{path} (its dice is not the mean over its targets)")
    metrics = content.get("metrics", {"dice": ""})
    for part in (content, *content["targets"].values()):
        part |= {key: math.nan for key in part if part[key] is None and key.partition("_")[0] in metrics}
    return content


def read_rows(path: Path, summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rows of ``per_image.csv``.

    Args:
        path: the file.
        summary: of the same cell; it tells how many images each target has, the metrics and the classes.

    Raises:
        DamagedError: it cannot be read, columns or rows are missing, or something is no number that should be one.
    """
    metrics = summary.get("metrics", {"dice"})
    scores = {key for target in summary["targets"].values() for key in target if key.partition("_")[0] in metrics}
    try:
        reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
        columns = list(reader.fieldnames or ())
        missing = [
            name
            for name in ("source", "target", "index", "image", *sorted(scores), "position", "seconds")
            if name not in columns
        ]
        if missing:
            raise DamagedError(f"{path} (lacks the column {', '.join(missing)})")
        numbers = [name for name in columns if name not in NAMES]
        rows = list(reader)
        for row in rows:
            _check_row(row, numbers)
            row |= {name: unguarded(row[name]) for name in NAMES if name in columns}
    except (csv.Error, ValueError) as error:
        raise DamagedError(f"{path} ({error})") from None
    for target, entry in summary["targets"].items():
        images = [row for row in rows if row["target"] == target]
        found = {row["index"] for row in images}
        # Of held-out images the file order has gaps.
        expected = found if summary["protocol"].get("evaluation") else {str(index) for index in range(entry["n"])}
        if found != expected or len(found) != entry["n"]:
            raise DamagedError(f"{path} (it has {len(images)} images of {target}, summary.json {entry['n']})")
        for score in (key for key in entry if key.partition("_")[0] == "dice"):
            if not _is_mean(entry[score], [float(row[score] or math.nan) for row in images]):
                raise DamagedError(f"{path} (its mean {score} of {target} is not that of summary.json)")
    if len(rows) != sum(entry["n"] for entry in summary["targets"].values()):
        raise DamagedError(f"{path} (it has an image twice, or one of another target)")
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file that holds an object.

    Raises:
        DamagedError: it cannot be read or holds something else.
    """
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} ({error})") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{path} (it holds no object)")
    return content


def _text(path: Path) -> str:
    fault = file_fault(path)
    if fault is not None:
        raise DamagedError(f"{path} ({fault})")
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise DamagedError(f"{path} (it is too large)")
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path} ({error})") from None
    if "\0" in text:
        raise DamagedError(f"{path} (it holds NUL bytes)")
    return text


def _is_mean(value: float, values: Sequence[float]) -> bool:
    """Whether it is theirs; also where one of them has none, and nothing can be told."""
    mean = sum(values) / len(values)
    return not math.isfinite(mean) or abs(mean - value) <= TOLERANCE


def _check_row(row: Mapping[str | None, str | None], numbers: list[str]) -> None:
    """Raise ValueError if a row is shorter or longer than the heading, or a number is none."""
    if None in row or None in row.values():
        raise ValueError("a row has another number of columns than the heading")
    for name in ("index", "position"):
        int(row[name] or "")
    for name in numbers:
        if row[name]:
            float(row[name] or "")
