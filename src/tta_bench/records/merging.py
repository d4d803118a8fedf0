"""Results folders of several machines become one: finished cells and their models are copied and verified."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tta_bench.errors import UserError
from tta_bench.models.checkpoint.optimizer import OPTIMIZER
from tta_bench.records.finished import DamagedError, read_json
from tta_bench.records.store import CellFolder
from tta_bench.runtime.files import open_archive, replacing, temporaries, translate_os_errors
from tta_bench.runtime.locks import acquire_lock

MODEL = "model.ckpt"
"""A source model, in ``source_models/<key>/``, or an adapted one, in ``adapted_models/<key>/``."""

ADAPTED = "adapted_models"

KINDS = {"source_models": "source model", ADAPTED: "adapted model"}
"""Folders of models, and what is in them."""

KEY = "key.json"
"""Beside an adapted model: all that determines it."""

BESIDE = (OPTIMIZER, KEY)
"""Files that go with a model, where they are there."""

ELSEWHERE = "as the last one of merge FROM… INTO"
"""How another place is chosen."""

_TIMES = ("seconds", "position")
"""Columns in which equal cells may differ, and one that follows from the others."""


@dataclass(frozen=True)
class Merge:
    """What is to be copied.

    Attributes:
        into: the folder that is to have everything.
        cells: finished ones that it lacks.
        models: source models and adapted ones that it lacks, with their SHA-256.
        present: how many finished cells it has already.
        unfinished: how many cells are left out, because nobody has finished them.
    """

    into: Path
    cells: tuple[CellFolder, ...]
    models: Mapping[Path, str]
    present: int
    unfinished: int

    def count(self, kind: str) -> int:
        """How many models of a folder of :data:`KINDS` are to be copied."""
        return sum(path.parent.parent.name == kind for path in self.models)


def models_of(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The records of all models that a finished cell was computed with."""
    several = (summary.get(key, {}).values() for key in ("adapted", "routes"))
    return [summary["source_checkpoint"], *(record for records in several for record in records)]


def plan_merge(roots: Sequence[Path], into: Path) -> Merge:
    """What a results folder lacks of others; which of two equal cells is taken does not depend on their order.

    Args:
        roots: results folders to copy from.
        into: one that need not exist.

    Raises:
        UserError: a folder without results, and every cell or source model of which two folders have different ones.
    """
    faults = [
        f"{root} is no results folder: it has neither cells/ nor source_models/"
        for root in roots
        if not any((root / name).is_dir() for name in ("cells", "source_models"))
    ]
    inside = into.resolve()
    faults += [
        f"merge copies from {root} into {into}, which is {'the same folder' if inside == place else 'inside it'}: name "
        "the folder to copy into last"
        for root in roots
        if (place := root.resolve()) in (inside, *inside.parents)
    ]
    if faults:
        raise UserError(faults)
    places = list({root.resolve(): root for root in (into, *roots)}.values())
    found: dict[str, list[CellFolder]] = {}
    for root in places:
        for path in sorted((root / "cells").glob("*/status.json")):
            found.setdefault(path.parent.name, []).append(CellFolder(path.parent))
    models = _models(places)
    used: dict[str, dict[str, Path]] = {}
    cells, present, unfinished = [], 0, 0
    for folders in found.values():
        finished = [(folder, result) for folder in folders if (result := folder.finished(thoroughly=True)) is not None]
        if not finished:
            unfinished += 1
            continue
        faults += [fault for other in finished[1:] if (fault := _difference(finished[0], other)) is not None]
        for folder, (summary, _) in finished:
            for record in models_of(summary):
                key = "/".join(Path(record["path"]).parts[-3:-1])
                if key.partition("/")[0] in KINDS:
                    used.setdefault(key, {}).setdefault(record["sha256"], folder.path)
        if finished[0][0].path.parent.parent == places[0]:
            present += 1
        else:
            cells.append(min(finished, key=_precedence)[0])
    for key in sorted({*models, *used}):
        files = {sha256: str(path) for sha256, path in models.get(key, {}).items()}
        known = {sha256: f"the cell {path}" for sha256, path in used.get(key, {}).items()} | files
        if len(known) > 1:
            told = ", ".join(f"{sha256[:12]} of {where}" for sha256, where in sorted(known.items()))
            faults.append(
                f"{_called(key)} is not the same everywhere (sha256 {told}): numbers of both cannot be compared; "
                "copy one file to the other machine and compute its cells again"
            )
    if faults:
        raise UserError(faults)
    lacking = {path: sha256 for files in models.values() for sha256, path in files.items()}
    lacking = {path: sha256 for path, sha256 in lacking.items() if path.parent.parent.parent != places[0]}
    return Merge(into, tuple(cells), lacking, present, unfinished)


def merge(planned: Merge) -> Iterator[str]:
    """Copy it, models first; a killed merge leaves nothing that counts and is not whole.

    Yields:
        A sentence per cell and model as it is there.

    Raises:
        UserError: the folder cannot be written to, or a copy is not what was copied.
    """
    with translate_os_errors(planned.into, ELSEWHERE):
        for path, sha256 in planned.models.items():
            key = f"{path.parent.parent.name}/{path.parent.name}"
            target = planned.into / key / MODEL
            target.parent.mkdir(parents=True, exist_ok=True)
            lock = acquire_lock(target.parent / "lock", f"makes {_called(key)}")
            try:
                for file in filter(Path.is_file, map(path.with_name, BESIDE)):
                    _copy(file, target.with_name(file.name), file_digest(file))
                _copy(path, target, sha256)
            finally:
                lock.release()
            yield _called(key)
        for folder in planned.cells:
            _copy_cell(folder, CellFolder(planned.into / "cells" / folder.hash))
            yield f"cell {folder.hash}"


def _copy_cell(folder: CellFolder, target: CellFolder) -> None:
    """Copy a finished cell; what says that it is finished comes last."""
    left_out = {folder.snapshot, folder.path / ".lock", folder.path / "status.json", *temporaries(folder.path)}
    with target.locked():
        if target.finished() is not None:  # another process was faster
            return
        (target.path / "status.json").unlink(missing_ok=True)
        for path in sorted(folder.path.rglob("*")):
            if path.is_file() and path not in left_out and path.suffix != ".aside":
                _copy(path, target.path / path.relative_to(folder.path), file_digest(path))
        _copy(folder.path / "status.json", target.path / "status.json", file_digest(folder.path / "status.json"))
        if target.finished(thoroughly=True) is None:
            raise UserError(f"{target.path} is not what {folder.path} is: its disk may be broken, use another folder")
        target.delete_leftovers()


def _copy(path: Path, target: Path, sha256: str) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)
        if file_digest(temporary) != sha256:
            raise UserError(f"the copy of {path} in {target.parent} has another checksum: merge again")


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _models(roots: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """Folder of :data:`KINDS` and key, with a slash -> SHA-256 -> the first file that has it."""
    found: dict[str, dict[str, Path]] = {}
    for root in roots:
        for kind in KINDS:
            for path in sorted((root / kind).glob(f"*/{MODEL}")):
                found.setdefault(f"{kind}/{path.parent.name}", {}).setdefault(file_digest(path), path)
    return found


def _called(key: str) -> str:
    kind, _, name = key.partition("/")
    return f"{KINDS[kind]} {name}"


Finished = tuple[CellFolder, tuple[dict[str, Any], list[dict[str, str]]]]


def _precedence(finished: Finished) -> tuple[int, str, str]:
    """Most metrics first, then the oldest, then by content: the same on every machine."""
    folder, (summary, _) = finished
    try:
        time = str(read_json(folder.path / "status.json").get("time", ""))
    except DamagedError:
        time = ""
    return -len(summary.get("metrics", ())), time, file_digest(folder.path / "summary.json")


def _difference(one: Finished, other: Finished) -> str | None:
    """Why two finished cells of one hash are not the same, as a sentence; times and further metrics may differ."""
    (first, (summary, rows)), (second, (others, more)) = one, other
    what = None
    columns = [name for name in rows[0] if name in more[0] and name not in _TIMES]
    position = {(row["target"], row["index"]): row for row in more}
    if summary["source_checkpoint"]["sha256"] != others["source_checkpoint"]["sha256"]:
        what = "they used other source models"
    elif summary["data"] != others["data"]:
        what = "they saw other images"
    elif len(rows) != len(more):
        what = "they have another number of images"
    else:
        for row in rows:
            twin = position.get((row["target"], row["index"]), {})
            name = next((name for name in columns if row[name] != twin.get(name)), None)
            if name is not None:
                place = f"image {row['index']} of {row['target']}"
                what = f"{name} of {place} is {row[name] or 'empty'} and {twin.get(name) or 'empty'}"
                break
        else:
            if _checksums(first) and _checksums(second) and _checksums(first) != _checksums(second):
                what = "their predictions differ"
    if what is None:
        return None
    told = json.dumps(summary["source"], ensure_ascii=False).strip('"')
    return (
        f"cell {first.hash} ({summary['method']}, source {told}, seed {summary['seed']}) is not the same in "
        f"{first.path.parent.parent} and {second.path.parent.parent}: {what}; remove one of them with tta-bench clean "
        f"--where hash={first.hash} results_root=DIR"
    )


def _checksums(cell: CellFolder) -> dict[str, int]:
    """Of the predictions' bytes, however they are packed; empty where there are none."""
    if not cell.predictions.is_file():
        return {}
    with open_archive(cell.predictions) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist()}
