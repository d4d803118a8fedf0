"""Prepare domains: decode, check and resize every image once, then map the arrays into memory.

A cache entry is a folder ``<key>/`` with ``images.npy``, ``masks.npy`` and ``index.json``. Its key covers
everything that its content depends on, so an entry is never changed: it is valid, or absent and made anew. It is
written under a temporary name and renamed, so that a killed run or a second process never leaves half an entry.
Entries of files that have since changed stay until the folder is deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from tta_bench.config import DataConfig
from tta_bench.data.domain import Domain
from tta_bench.data.readers import Record, Sample, open_reader
from tta_bench.errors import UserError, shown

log = logging.getLogger(__name__)

LAYOUT_VERSION = 1
"""Of the cache entries; raise it whenever the same files would be decoded into other arrays."""

FAULTS_SHOWN = 20
"""Further faults are only counted."""

_CHUNK = 64  # pairs decoded ahead, which bounds the memory
_LEFTOVER_AGE = 24 * 3600.0  # seconds after which nobody can still be writing a temporary folder
_TEMPORARY = ".part-"
_LOSSY = (".jpg", ".jpeg", ".jfif")


@dataclass(frozen=True)
class Prepared:
    """A domain and what its files told while they were decoded.

    Attributes:
        domain: the prepared images.
        sizes: ``(height, width)`` of each image as stored, pixels.
    """

    domain: Domain
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Entry:
    """A valid cache entry."""

    images: np.ndarray
    masks: np.ndarray
    index: dict[str, Any]


def available_domains(config: DataConfig) -> tuple[str, ...]:
    """The domains that the data set has on disk, in its own order; looks at folders and lists only.

    Raises:
        UserError: ``data.root`` does not exist or holds no domain.
    """
    return open_reader(config).domain_names()


def prepare(config: DataConfig, names: Sequence[str], cache: Path, *, progress: bool = True) -> dict[str, Domain]:
    """Bring domains into memory-mapped arrays, from the cache where it is valid.

    Args:
        config: which images, read how.
        names: domains; repeated names count once.
        cache: folder of the cache entries, made if need be.
        progress: show a bar while images are decoded, if standard error is a terminal.

    Returns:
        The domains by name, in the order of ``names``.

    Raises:
        UserError: with the faults of all asked-for domains, at most :data:`FAULTS_SHOWN` of them in full; or
            the cache cannot be written.
    """
    prepared, faults = survey(config, names, cache, progress=progress)
    if faults:
        shown = list(faults[:FAULTS_SHOWN])
        if len(faults) > len(shown):
            shown.append(f"... and {len(faults) - len(shown)} more: 'tta-bench data check' lists all of them")
        raise UserError(shown)
    return {name: each.domain for name, each in prepared.items()}


def survey(
    config: DataConfig, names: Sequence[str], cache: Path, *, progress: bool = True
) -> tuple[dict[str, Prepared], tuple[str, ...]]:
    """As :func:`prepare`, but hand back the sound domains together with all faults of the others.

    Raises:
        UserError: ``data.root`` does not exist or the cache cannot be written.
    """
    reader = open_reader(config)
    prepared: dict[str, Prepared] = {}
    faults: list[str] = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (progress and console.is_terminal)) as bars:
        for name in dict.fromkeys(names):
            try:
                records = reader.records(name)[: config.limit]
                entry = _entry(config, name, records, cache, bars)
                _check_values(config, name, records, entry.index["values"])
            except UserError as error:
                faults += error.faults
                continue
            except OSError as error:
                unwritable = (
                    f"the prepared images cannot be kept in {cache} ({error.strerror or error}): free space or "
                    "mend its permissions, or choose another folder with results_root=DIR"
                )
                raise UserError([*faults, unwritable]) from error
            prepared[name] = Prepared(
                Domain(
                    name=name,
                    image_names=tuple(entry.index["image_names"]),
                    images=entry.images,
                    masks=entry.masks,
                    classes=config.classes,
                    fingerprint=_digest([name, entry.index["content"], list(config.classes.items())]),
                ),
                sizes=tuple((height, width) for height, width in entry.index["sizes"]),
            )
    return prepared, tuple(faults)


def _entry(config: DataConfig, name: str, records: Sequence[Record], cache: Path, bars: Progress) -> _Entry:
    """The cache entry of some records, made if it is absent or invalid."""
    stamps = [[record.name, *record.stamp()] for record in records]
    folder = cache / _digest([LAYOUT_VERSION, config.name, config.image_size, stamps])
    entry = _load(folder)
    if entry is None:
        log.info("preparing %d images of domain %s", len(records), name)
        task = bars.add_task(escape(f"Preparing {shown(name)}"), total=len(records))
        _build(records, config.image_size, folder, lambda: bars.advance(task))
        entry = _load(folder)
        if entry is None:
            raise OSError(f"{folder} is not readable after writing it")
    return entry


def _load(folder: Path) -> _Entry | None:
    """Map a cache entry into memory; None if it is absent, incomplete or does not fit together."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        images = np.load(folder / "images.npy", mmap_mode="r")
        masks = np.load(folder / "masks.npy", mmap_mode="r")
        if [list(images.shape), list(masks.shape)] != [index["images"], index["masks"]]:
            return None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return _Entry(images, masks, index)


def _build(records: Sequence[Record], size: int, folder: Path, advance: Callable[[], None]) -> None:
    """Decode all records into a new cache entry.

    Raises:
        UserError: with the faults of all records; nothing is left behind.
        OSError: the entry cannot be written.
    """
    cache = folder.parent
    cache.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(cache)
    with tempfile.TemporaryDirectory(
        prefix=f"{folder.name}{_TEMPORARY}", dir=cache, ignore_cleanup_errors=True
    ) as temporary:
        part = Path(temporary) / "entry"
        part.mkdir()
        _write(part, records, size, advance)
        if _load(folder) is not None:
            return  # another process was faster
        if folder.exists():
            folder.rename(Path(temporary) / "invalid")
        try:
            part.rename(folder)
        except OSError:
            if _load(folder) is None:
                raise


def _write(part: Path, records: Sequence[Record], size: int, advance: Callable[[], None]) -> None:
    """Fill a folder with the arrays and the index of a cache entry."""
    image_shape, mask_shape = (len(records), size, size, 3), (len(records), size, size)
    sizes: list[tuple[int, int]] = []
    values: list[tuple[int, ...]] = []
    faults: list[str] = []
    content = hashlib.sha256()
    # Plain sequential writes: a full disk raises an error, where writing to a memory map kills the process.
    with (part / "images.npy").open("wb") as images, (part / "masks.npy").open("wb") as masks:
        _write_header(images, image_shape)
        _write_header(masks, mask_shape)
        for record, outcome in _read_all(records, size):
            advance()
            if isinstance(outcome, UserError):
                faults += outcome.faults
            elif not faults:
                pixels = (outcome.image.tobytes(), outcome.mask.tobytes())
                images.write(pixels[0])
                masks.write(pixels[1])
                for part_of_content in (record.name.encode(), *pixels):
                    content.update(part_of_content)
                sizes.append((outcome.height, outcome.width))
                values.append(outcome.values)
    if faults:
        raise UserError(faults)
    index = {
        "images": image_shape,
        "masks": mask_shape,
        "image_names": [record.name for record in records],
        "sizes": sizes,
        "values": values,
        "content": content.hexdigest(),
    }
    (part / "index.json").write_text(json.dumps(index), encoding="utf-8")


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Begin an ``.npy`` file of uint8 values."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _read_all(records: Sequence[Record], size: int) -> Iterator[tuple[Record, Sample | UserError]]:
    """Decode records in parallel, hand them back in order."""

    def read(record: Record) -> Sample | UserError:
        try:
            return record.read(size)
        except UserError as error:
            return error

    # Threads suffice: Pillow decodes and resizes without the interpreter lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(records), _CHUNK):
            chunk = records[start : start + _CHUNK]
            yield from zip(chunk, pool.map(read, chunk), strict=True)


def _remove_leftovers(cache: Path) -> None:
    """Delete temporary folders of runs that were killed long ago."""
    for path in cache.glob(f"*{_TEMPORARY}*"):
        with contextlib.suppress(OSError):  # another process may be deleting it too
            if time.time() - path.stat().st_mtime > _LEFTOVER_AGE:
                shutil.rmtree(path)


def _check_values(config: DataConfig, name: str, records: Sequence[Record], found: Sequence[Sequence[int]]) -> None:
    """Refuse mask values that have no meaning; 0 is always background.

    Args:
        config: with the classes.
        name: of the domain.
        records: its images.
        found: the mask values of each of them.

    Raises:
        UserError: naming the values, the first mask that has them and the key to set.
    """
    known = {0}.union(*config.classes.values())
    odd = [record.origin for record, values in zip(records, found, strict=True) if not known.issuperset(values)]
    if not odd:
        return
    values = sorted({value for image in found for value in image})
    listed = ", ".join(map(str, values[:10])) + (f", ... ({len(values)} values)" if len(values) > 10 else "")
    if Path(odd[0]).suffix.lower() in _LOSSY:
        remedy = "JPEG does not keep exact values, so export the masks anew as PNG"
    elif len(values) > 10:
        remedy = "so many values come from smoothing or compression, so export the class numbers anew as PNG"
    else:
        example = ",".join(str(value) for value in values if value)
        remedy = f"list the values of each class, for example data.classes.{next(iter(config.classes))}=[{example}]"
    classes = "; ".join(f"{key}: {list(members)}" for key, members in config.classes.items())
    raise UserError(
        f"domain '{name}': {len(odd)} of {len(records)} masks have values that data.classes ({classes}) does not "
        f"list (values found: {listed}; first mask: {odd[0]}): {remedy}"
    )


def _digest(content: Any) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
