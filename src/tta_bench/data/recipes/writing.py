"""A prepared domain on the disk: whole or absent, continued after an interruption, never over anybody's files.

A domain is made in the hidden folder ``OUT/.NAME.part`` and renamed to ``OUT/NAME`` when it is complete. There,
``made.jsonl`` tells of each finished item which files were read and written, with their checksums, before these are
written, so that the next run believes what agrees and makes the rest anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tta_bench.data.lists import COLUMNS
from tta_bench.data.recipes.making import Made, make
from tta_bench.data.recipes.pairing import Item
from tta_bench.data.recipes.recipe import Recipe
from tta_bench.errors import UserError
from tta_bench.runtime import signals
from tta_bench.runtime.files import replacing, translate_os_errors, write_atomically
from tta_bench.runtime.locks import acquire_lock
from tta_bench.runtime.names import csv_file

MANIFEST = "manifest.csv"
FACTS = ("split", "case", "slice", "spacing", "left", "top", "side", "outside")
KINDS = ("image", "mask", "grey")
MANIFEST_COLUMNS = (
    "name",
    *(column for kind in KINDS for column in (kind, f"{kind}_sha256")),
    *FACTS,
    "sources",
    "sources_sha256",
)
"""``outside``: pixels of the cup outside the disc, which count as disc, too."""

SHADES = np.array([255, 128, 0], np.uint8)
"""Grey codes of background, rim and cup in the masks of ``data=fundus``."""

_AHEAD = 16  # items made side by side
_PLACE = "as OUT"


@dataclass(frozen=True)
class Target:
    """Where a domain goes.

    Attributes:
        out: folder of all domains.
        domain: its name.
        recipe: that makes it.
        classes: as ``data.classes``.
        root: of the release.
    """

    out: Path
    domain: str
    recipe: Recipe
    classes: Mapping[str, Sequence[int]]
    root: Path

    @property
    def folder(self) -> Path:
        """Of the complete domain."""
        return self.out / self.domain

    @property
    def lists(self) -> list[Path]:
        """Those of the authors' layout that it may have."""
        return [self.out / f"{self.domain}{part}.csv" for part in ("_train", "_test", "")] if self.recipe.fundus else []

    @property
    def resolved(self) -> dict[str, Any]:
        """The recipe with all that was changed in it, and the classes, as ``recipe.yaml`` keeps them."""
        content = self.recipe.model_dump(mode="json", exclude_defaults=True)
        return {**content, "classes": {name: list(values) for name, values in self.classes.items()}}


def write_domain(target: Target, items: Sequence[Item], progress: Callable[[], object]) -> list[dict[str, str]]:
    """Make a domain, or find that it is complete.

    Args:
        target: where.
        items: in stream order.
        progress: called after each item.

    Returns:
        The rows of its manifest, texts by :data:`MANIFEST_COLUMNS`.

    Raises:
        UserError: with every damaged file; the folder holds anything else; it cannot be written.
    """
    with translate_os_errors(target.out, _PLACE):
        target.out.mkdir(parents=True, exist_ok=True)
        lock = acquire_lock(target.out / ".lock", "prepares into the same folder")
    try:
        with translate_os_errors(target.out, _PLACE):
            if os.path.lexists(target.folder):
                rows = _complete(target, items, progress)
            else:
                rows = _made(target, items, progress)
            _write_lists(target, rows)
            return rows
    finally:
        lock.release()


def sha256(path: Path) -> str:
    """Checksum of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _complete(target: Target, items: Sequence[Item], progress: Callable[[], object]) -> list[dict[str, str]]:
    """The rows of a domain that is there and agrees with what would be made."""
    remedy = "choose another OUT, or remove that folder"
    try:
        resolved = yaml.safe_load((target.folder / "recipe.yaml").read_text(encoding="utf-8"))
        rows = [json.loads(line) for line in (target.folder / "made.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, yaml.YAMLError):
        raise UserError(f"{target.folder} exists and was not made by this command: {remedy}") from None
    if resolved != target.resolved:
        keys = sorted(key for key in {*resolved, *target.resolved} if resolved.get(key) != target.resolved.get(key))
        raise UserError(f"{target.folder} was prepared by another recipe ({', '.join(keys)} differ): {remedy}")
    expected = [_sources(target.root, item) for item in items]
    if [row["sources"] for row in rows] != expected:
        raise UserError(f"{target.folder} was prepared from other files than {target.root} holds now: {remedy}")
    for row in rows:
        for path, checksum in row["written"].items():
            if not _holds(target.folder / path, checksum):
                raise UserError(f"{target.folder / path} is missing or was changed after it was prepared: {remedy}")
        progress()
    return [line for row in rows for line in row["lines"]]


def _made(target: Target, items: Sequence[Item], progress: Callable[[], object]) -> list[dict[str, str]]:
    """Make what is not there yet; rename the folder when all is."""
    part = target.out / f".{target.domain}.part"
    journal = part / "made.jsonl"
    for path in target.lists:
        if os.path.lexists(path):
            raise UserError(f"{path} exists, and its domain {target.folder} does not: move it, or choose another OUT")
    known = _journal(part, target)
    part.mkdir(exist_ok=True)
    write_atomically(part / "recipe.yaml", yaml.safe_dump(target.resolved, allow_unicode=True), _PLACE)
    rows: list[dict[str, Any]] = []
    faults: list[str] = []
    with journal.open("a", encoding="utf-8") as log_file, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(items), _AHEAD):
            some = items[start : start + _AHEAD]
            for result in pool.map(lambda item: _item(target, part, known, item), some):
                signals.check()
                progress()
                if isinstance(result, UserError):
                    faults += result.faults
                    continue
                row, contents = result
                if contents:
                    log_file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    log_file.flush()
                    for name, content in contents.items():
                        with replacing(part / name) as temporary:
                            temporary.write_bytes(content)
                rows.append(row)
    if faults:
        raise UserError(faults)
    lines = [line for row in rows for line in row["lines"]]
    if len({line["name"] for line in lines}) < len(lines):
        raise UserError(f"{target.domain}: two slices have one name: give parts.name a field that tells them apart")
    write_atomically(journal, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), _PLACE)
    write_atomically(part / MANIFEST, csv_file(MANIFEST_COLUMNS, lines), _PLACE)
    expected = {*(path for row in rows for path in row["written"]), "recipe.yaml", "made.jsonl", MANIFEST}
    for path in [path for path in part.rglob("*") if path.is_file()]:
        if path.relative_to(part).as_posix() not in expected:
            path.unlink()  # of an item that the release no longer has
    part.rename(target.folder)
    return lines


def _journal(part: Path, target: Target) -> dict[str, dict[str, Any]]:
    """What an interrupted run has finished, by item; nothing if it followed another recipe."""
    try:
        if yaml.safe_load((part / "recipe.yaml").read_text(encoding="utf-8")) != target.resolved:
            return {}
        lines = (part / "made.jsonl").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    known = {}
    for line in lines:
        try:
            row = json.loads(line)
            known[str(row["item"])] = row
        except (ValueError, LookupError, TypeError):  # the line at which it was killed
            continue
    return known


def _item(
    target: Target, part: Path, known: Mapping[str, dict[str, Any]], item: Item
) -> tuple[dict[str, Any], dict[str, bytes]] | UserError:
    """The row of an item, and the files that have to be written for it."""
    try:
        sources = _sources(target.root, item)
        row = known.get(item.image)
        if (
            row
            and row["sources"] == sources
            and all(_holds(part / path, sum_) for path, sum_ in row["written"].items())
        ):
            return row, {}
        contents: dict[str, bytes] = {}
        lines = []
        for made in make(target.recipe, target.classes, target.root, item):
            files = _encoded(made, target.recipe.fundus)
            contents |= files
            line = {
                "name": made.name,
                "split": item.split or "",
                **{key: str(value) for key, value in made.facts.items()},
            }
            for path, content in files.items():
                kind = path.partition("/")[0]
                line |= {kind: path, f"{kind}_sha256": hashlib.sha256(content).hexdigest()}
            line |= {"sources": ";".join(sources), "sources_sha256": ";".join(sources.values())}
            lines.append(line)
        written = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
        return {"item": item.image, "sources": sources, "written": written, "lines": lines}, contents
    except UserError as error:
        return error


def _encoded(made: Made, fundus: bool) -> dict[str, bytes]:
    """The files of an image by their path within the domain."""
    grey = made.image[..., 0] if (made.image == made.image[..., :1]).all() else made.image
    arrays = {"image": grey, "mask": made.mask}
    if fundus:
        arrays["grey"] = SHADES[made.mask]
    contents = {}
    for kind, array in arrays.items():
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        contents[f"{kind}/{made.name}.png"] = buffer.getvalue()
    return contents


def _write_lists(target: Target, rows: Sequence[Mapping[str, str]]) -> None:
    """The CSV files of the authors' layout, of which an equal one stays."""
    for path in target.lists:
        split = {"_train": "train", "_test": "test"}.get(path.stem.removeprefix(target.domain), "")
        chosen = [
            {"image": f"{target.domain}/{row['image']}", "mask": f"{target.domain}/{row['grey']}"}
            for row in rows
            if row["split"] == split
        ]
        content = csv_file(COLUMNS, chosen)
        if chosen and not (path.is_file() and path.read_text(encoding="utf-8") == content):
            if os.path.lexists(path):
                raise UserError(f"{path} exists and lists other files: move it, or choose another OUT")
            write_atomically(path, content, _PLACE)


def _sources(root: Path, item: Item) -> dict[str, str]:
    """The files of an item with their checksums."""
    sources = {}
    for name in item.sources:
        try:
            sources[name] = sha256(root / name)
        except OSError as error:
            raise UserError(f"{root / name} cannot be read ({error.strerror}): mend its permissions") from None
    return sources


def _holds(path: Path, checksum: str) -> bool:
    try:
        return sha256(path) == checksum
    except OSError:
        return False


def counted(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """What is to be told of prepared images: cups that leave their discs, and regions that leave their images."""
    outside = [row for row in rows if int(row.get("outside") or 0)]
    if outside:
        worst = max(outside, key=lambda row: int(row["outside"]))
        yield (
            f"{len(outside)} images have pixels of the cup outside the disc, which count as disc, too "
            f"(most: {worst['name']}, {worst['outside']})"
        )
    beyond = [row["name"] for row in rows if min(int(row.get("left") or 0), int(row.get("top") or 0)) < 0]
    if beyond:
        yield f"{len(beyond)} images are smaller than their region, whose rest is black, such as {beyond[0]}"
