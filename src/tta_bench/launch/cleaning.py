"""What a results folder can do without: leftovers, unfinished cells and models that nothing here needs."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from tta_bench.cell import Cell
from tta_bench.errors import UserError
from tta_bench.launch.experiment_files import read_experiments
from tta_bench.launch.experiments import plan
from tta_bench.launch.stored import cell_of, read_last_sweep
from tta_bench.models.checkpoint import file_sha256
from tta_bench.offline.stage import made_of, serves_stage, stage_of
from tta_bench.records.merging import ADAPTED, MODEL, models_of
from tta_bench.records.store import CellFolder
from tta_bench.runtime.files import leftovers, temporaries, translate_os_errors
from tta_bench.runtime.locks import is_free
from tta_bench.schema import RunConfig
from tta_bench.source.train import branchless_path, read_if_sound, serves

TRASH = ".removed"
"""Folder to which whatever goes is moved first: a killed removal leaves nothing that counts."""


_HASH = re.compile("[0-9a-f]{16}")
"""Name of a cell's folder: any other is the user's own."""


@dataclass(frozen=True)
class Item:
    """A file or folder that can go.

    Attributes:
        path: of it.
        why: in words, the same for all of a kind.
        lock: of the process that may work on it.
    """

    path: Path
    why: str
    lock: Path

    @property
    def size(self) -> int:
        """Bytes."""
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(path.lstat().st_size for path in files if path.is_file() and not path.is_symlink())


def unneeded(root: Path, needed: Callable[[], Sequence[Cell]], told: Collection[str] = (), why: str = "") -> list[Item]:
    """What can go; never what a process holds, and no finished cell unless told.

    Args:
        root: results folder.
        needed: cells of experiments, whether they are there or not; asked for only if that decides anything.
        told: hashes of cells that go although they are finished.
        why: of those.
    """
    found: list[Item] = []
    unfinished: list[Item] = []
    used = _searched_models(root)
    for path in sorted(path for path in (root / "cells").glob("*") if path.is_dir() and _HASH.fullmatch(path.name)):
        folder, lock = CellFolder(path), path / ".lock"
        if folder.is_held():
            continue
        results = folder.finished()
        if path.name in told:
            found.append(Item(path, why, lock))
        elif results is not None:
            used |= {Path(record["path"]).parent.name: record["sha256"] for record in models_of(results[0])}
            files = [folder.snapshot, *leftovers(folder.snapshot), *temporaries(path)]
            found += [Item(file, "left by a run of a finished cell", lock) for file in files if file.is_file()]
        else:
            unfinished.append(Item(path, "unfinished cell that no experiment needs", lock))
    models = [path for path in sorted((root / "source_models").glob(f"*/{MODEL}")) if is_free(path.parent / "lock")]
    for path in models:
        files = [*path.parent.glob("last.*"), *temporaries(path.parent)]
        found += [Item(file, "left by a finished training", path.parent / "lock") for file in files if file.is_file()]
    spare = [path for path in models if path.parent.name not in used]
    folders = [path for path in sorted((root / ADAPTED).glob("*")) if path.is_dir() and is_free(path / "lock")]
    for path in folders:
        files = [*path.glob("snapshot.pt*"), *temporaries(path)] if (path / MODEL).is_file() else []
        found += [Item(file, "left by a finished adapt stage", path / "lock") for file in files]
    earlier = _earlier_stages(root, used)
    spare_adapted = [path for path in folders if path.name not in used and path not in earlier]
    if unfinished or spare or spare_adapted:
        cells = needed()
        hashes = {cell.folder().hash for cell in cells}
        found += [item for item in unfinished if item.path.name not in hashes]
        found += _spare_models(root, spare, used, [each for cell in cells for each in cell.config.of_each_source()])
        asked = [stage_of(cell.config, cell.seed) for cell in cells if cell.config.adapt is not None]
        why = "adapted model that no cell has used and no experiment needs"
        found += [Item(path, why, path / "lock") for path in spare_adapted if not serves_stage(path, asked)]
    if (root / TRASH).is_dir():
        found.append(Item(root / TRASH, "left by a removal that was stopped", root / TRASH / "lock"))
    return found


def needed_cells(root: Path, words: Sequence[str], overrides: Sequence[str]) -> list[Cell]:
    """The cells of all installed experiments, of further ones and of the last sweep.

    Args:
        root: results folder.
        words: names or paths of experiments.
        overrides: of every one of them.

    Raises:
        UserError: every fault of them.
    """
    names = dict.fromkeys([*read_experiments(), *words])
    cells = [planned.cell for name in names for planned in plan(name, overrides).cells]
    try:
        last = read_last_sweep(root)
        if last["table"] is not None:
            cells += [each.cell for each in plan(last["table"], last["overrides"], last["config_dir"]).cells]
        cells += [cell_of(record, root) for record in last["cells"]]
    except UserError:  # there was none, or it cannot be planned any more
        pass
    return cells


def _searched_models(root: Path) -> dict[str, str]:
    """Folder of a source model that a finished search has used -> SHA-256 of its file."""
    used = {}
    for path in root.glob("searches/*/outcome.yaml"):
        with suppress(OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):  # damaged: it counts as none
            model = yaml.safe_load(path.read_text(encoding="utf-8"))["source_checkpoint"]
            used[Path(model["path"]).parent.name] = str(model["sha256"])
    return used


def _earlier_stages(root: Path, used: Mapping[str, str]) -> set[Path]:
    """The adapted models that used ones were made of, stage after stage.

    Args:
        root: results folder.
        used: folder of a model, by its name -> SHA-256 of its file.
    """
    folders = [*(root / ADAPTED).glob("*")]
    wanted = {made_of(path) for path in folders if path.name in used} - {*used.values(), None}
    if not wanted:
        return set()
    spare = {file_sha256(path / MODEL): path for path in folders if path.name not in used and (path / MODEL).is_file()}
    found: set[Path] = set()
    while wanted:
        path = spare.get(wanted.pop() or "")
        if path is not None and path not in found:
            found.add(path)
            wanted.add(made_of(path))
    return found


def _spare_models(
    root: Path, models: Sequence[Path], used: Collection[str], configs: Sequence[RunConfig]
) -> list[Item]:
    """Source models that no finished cell has used and none of these runs will use."""
    distinct = list({(c.source, c.model.model_dump_json(), c.training.model_dump_json()): c for c in configs}.values())
    kept = {*used}
    for path in models:
        checkpoint = read_if_sound(path)
        if checkpoint is not None and any(serves(checkpoint, config) for config in distinct):
            kept.add(path.parent.name)
    for key in sorted(kept):
        path = root / "source_models" / key / MODEL
        checkpoint = read_if_sound(path) if path.is_file() else None
        twin = (
            branchless_path(checkpoint, root)
            if checkpoint is not None and checkpoint.architecture.get("branches")
            else None
        )
        kept |= {twin.parent.name} if twin is not None else set()
    why = "source model that no cell or search has used and no experiment needs"
    return [Item(path.parent, why, path.parent / "lock") for path in models if path.parent.name not in kept]


def remove(root: Path, items: Sequence[Item]) -> Iterator[Item]:
    """Remove them, each out of the way before it is taken apart.

    Yields:
        Each as it is gone; not what a process has taken up in the meantime.

    Raises:
        UserError: the folder cannot be written to.
    """
    trash = root / TRASH
    with translate_os_errors(root):
        for number, item in enumerate(items):
            if item.path == trash:
                shutil.rmtree(trash)
            elif item.path.parent.exists() and is_free(item.lock):
                trash.mkdir(exist_ok=True)
                os.replace(item.path, trash / f"{os.getpid()}_{number}")
            else:
                continue
            yield item
        if trash.is_dir():
            shutil.rmtree(trash)
