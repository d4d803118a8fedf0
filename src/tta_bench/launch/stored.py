"""Cells that lie in a results folder, whatever has made them: read from their ``config.yaml``, chosen, filtered."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from tta_bench.cell import Cell
from tta_bench.errors import UserError, nearest
from tta_bench.launch.check import Job
from tta_bench.launch.experiments import Plan
from tta_bench.launch.validation import validate
from tta_bench.methods.options import PRESETS
from tta_bench.records.finished import DamagedError, read_json
from tta_bench.runtime.files import file_fault, write_atomically
from tta_bench.runtime.paths import shipped
from tta_bench.runtime.values import flat

SPEED = (
    "metrics",
    "tune",
    "search",
    "launch",
    "logger",
    "group",
    "results_root",
    "force",
    "device",
    "runtime",
    "lockstep",
)
"""Keys of a run that say nothing of a cell."""

GROUPS = ("method", "adapt", "data", "model", "protocol")
"""Sections that are called by their key ``name``."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_HASH = re.compile("[0-9a-f]{4,16}")


def record_of(cell: Cell) -> dict[str, Any]:
    """What ``config.yaml`` says of a cell, as :func:`cell_of` reads it."""
    return {**cell.identity(), "method": cell.method}


def cell_of(record: Mapping[str, Any], root: Path) -> Cell:
    """The cell of a record, in this results folder; what only changes speed or display has its default.

    Raises:
        UserError: every key that this version and its plug-ins do not know.
    """
    others = {
        "seed": [record.get("seed")],
        "metrics": ["dice"],
        "logger": {},
        "results_root": str(root),
        "force": False,
        "tune": False,
        "device": "auto",
        "lockstep": "auto",
        "precision": "f32",
        "launch": {"devices": "auto", "cells_per_device": 1, "pack": "auto"},
        "runtime": {"graphs": "auto"},
        "predict": {"nest": False},
    }
    sections = {key: value for key, value in record.items() if key not in ("hash", "seed", "results_root")}
    config = validate(
        {
            **others,
            **sections,
            "diagnostics": {**shipped("config")["diagnostics"], **_section(record, "diagnostics")},
            "data": {**shipped("shared/data"), **_section(record, "data")},
            "protocol": {
                **shipped("shared/network_size"),
                **shipped("protocol/online"),
                **_section(record, "protocol"),
            },
            "training": {**shipped("training/quick"), "branch_weights": {}, **_section(record, "training")},
        }
    )
    return Cell.of(config, config.seed[0])


def _section(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = record.get(name, {})
    return section if isinstance(section, Mapping) else {}


def stored_cells(root: Path) -> tuple[list[Cell], list[str]]:
    """All cells of a results folder by hash, finished or not, and a sentence for each that cannot be read."""
    cells, faults = [], []
    for path in sorted((root / "cells").glob("*/config.yaml")):
        try:
            fault = file_fault(path)
            content = yaml.load(path.read_bytes(), Loader=_LOADER) if fault is None else None
            if not isinstance(content, Mapping):
                raise UserError(fault or "is no configuration")
            cell = cell_of(content, root)
            if cell.folder().hash != path.parent.name:
                raise UserError("is of a version that gave other numbers")
            cells.append(cell)
        except (UserError, yaml.YAMLError, UnicodeDecodeError) as error:
            faults.append(f"{path}: {str(error).splitlines()[0]}")
    return cells, faults


def cells_by_hash(root: Path, prefixes: Sequence[str]) -> list[Cell]:
    """The cells of a results folder whose hashes begin so, in the order of the prefixes.

    Raises:
        UserError: a prefix that is none, or of no or several cells.
    """
    cells, unreadable = stored_cells(root)
    found, faults = [], []
    for prefix in prefixes:
        own = [cell for cell in cells if _HASH.fullmatch(prefix) and cell.folder().hash.startswith(prefix)]
        found += own[:1]
        if len(own) > 1:
            faults.append(f"{prefix} begins the hash of {len(own)} cells: give more of its digits")
        elif not own:
            lies = [fault for fault in unreadable if f"/{prefix}" in fault]
            hint = "'tta-bench cells' lists them; four digits or more are enough"
            faults += lies or [f"{prefix} is no cell of {root / 'cells'}: {hint}"]
    if faults:
        raise UserError(faults)
    return list({cell.folder().hash: cell for cell in found}.values())


# Filters


def parse_where(texts: Iterable[str]) -> dict[str, list[str]]:
    """Key -> patterns of which one must fit: ``method=tent,sar,source=D`` are TENT and SAR on D.

    Raises:
        UserError: a text that begins with no ``KEY=``.
    """
    where: dict[str, list[str]] = {}
    for text in texts:
        key = ""
        for part in text.split(","):
            name, equals, value = part.partition("=")
            key, value = (name.strip(), value) if equals else (key, part)
            if not key:
                raise UserError(f"--where {text}: write KEY=VALUE, for example --where method=tent,source=D")
            where.setdefault(key, []).append(value)
    return where


SPELLED_OUT: Mapping[str, Any] = {"protocol.evaluation": "all", "model.channels": 3}
"""Keys that are null at a default that one may write down, too."""


def facts(cell: Cell) -> dict[str, Any]:
    """What a cell may be filtered by: ``hash``, ``source``, ``target``, ``seed`` and dotted keys; groups by name.

    What is called otherwise in lists of cells is found by that, too: the method behind its adapt stage, seed and order.
    A record leaves out keys that have their default; here every key is.
    """
    left_out = {*SPEED, *(("training",) if cell.config.checkpoint else ())}
    usual = {key: value for key, value in _whole(cell.config).items() if key not in left_out}
    content = {**record_of(cell), "hash": cell.folder().hash, "seed": cell.seed}
    found = {"method.preset": PRESETS[0], **flat(usual), **flat(content)}
    found |= {key: (None, value) for key, value in SPELLED_OUT.items() if found[key] is None}
    found |= {"training_seed": cell.config.training.seed, "order": cell.config.protocol.order}
    found |= {group: found.get(f"{group}.name") for group in GROUPS}
    return found | {"method": (found["method"], cell.config.called)}


def _whole(section: BaseModel) -> dict[str, Any]:
    """A section with the keys that it leaves out where it is written down, but for those that are never stored."""
    values = {key: getattr(section, key) for key, field in type(section).model_fields.items() if not field.exclude}
    return {
        key: _whole(value) if isinstance(value, BaseModel) else str(value) if isinstance(value, Path) else value
        for key, value in values.items()
    }


def check_keys(where: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse filters by keys that no cell has.

    Raises:
        UserError: each with the nearest one.
    """
    names = {*known}
    differs = "filter by the keys that it shows, for example method.learning_rate=1e-3"
    hints = {key: differs if key == "differs" else nearest(key, names) for key in where if key not in names}
    faults = [f"--where {key}=: {hint}" for key, hint in hints.items()]
    if faults:
        raise UserError(faults)


def fits(where: Mapping[str, Sequence[str]], of: Mapping[str, Any]) -> bool:
    """Whether a cell's facts are as every filter asks for; of a list one value has to be."""
    return all(
        any(_equal(pattern, value) for pattern in patterns for value in _values(of.get(key)))
        for key, patterns in where.items()
    )


def _values(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _equal(pattern: str, value: Any) -> bool:
    """Whether a value reads like this, or is the same number."""
    if isinstance(value, bool):
        pattern = pattern.lower()  # CSV has True and False
    elif isinstance(value, int | float):
        try:
            return float(pattern) == value
        except ValueError:
            return False
    return fnmatch.fnmatchcase(value if isinstance(value, str) else json.dumps(value), pattern)


# The last sweep


def last_sweep(root: Path) -> Path:
    """Where the latest sweep is written down."""
    return root / "last_sweep.json"


def remember_sweep(words: Sequence[str], jobs: Sequence[Job], plan: Plan | None, config_dir: str | None) -> None:
    """Write a sweep down before it starts; a folder that only may be read keeps the one before.

    Args:
        words: of the command line.
        jobs: its runs, at least one.
        plan: of its experiment; None without one.
        config_dir: of Hydra's flag ``--config-dir``.
    """
    content: dict[str, Any] = {"command": [*words], "table": None, "overrides": [], "config_dir": config_dir}
    if plan is not None:  # planned again when it is asked for: the rows are more than the cells
        content |= {"table": plan.experiment.word, "overrides": [*plan.overrides], "cells": []}
    else:
        cells = [cell for job in jobs for cell in with_references(Cell.all_of(job.config))]
        content["cells"] = list({cell.folder().hash: record_of(cell) for cell in cells}.values())
    with suppress(UserError):
        write_atomically(last_sweep(jobs[0].config.results_root), json.dumps(content) + "\n")


def read_last_sweep(root: Path) -> dict[str, Any]:
    """The content of that file.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = last_sweep(root)
    try:
        content = read_json(path)
        if not isinstance(content.get("cells"), list):
            raise DamagedError(f"{path} (it has no cells)")
    except DamagedError as error:
        raise UserError(
            f"no sweep is known here, {error}: run one with -m or experiment=NAME, or choose the folder with "
            "results_root=DIR"
        ) from None
    return content


def with_references(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, each after the one without adaptation that it is compared with."""
    return [each for cell in cells for each in (cell.reference(), cell) if each is not None]
