"""Prepare domains: decode, check and resize every image once, then map the arrays into memory.

A cache entry is a folder ``<key>/`` with ``images.npy``, ``masks.npy`` and ``index.json``. Its key covers
everything that its content depends on, so an entry is never changed: it is valid, or absent or damaged and made anew.
It is written as ``<key>.part`` by the process that holds ``<key>.lock``, and renamed, so that a killed run or a second
process never leaves half an entry. Entries of files that have since changed stay until the folder is deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache as memoised
from pathlib import Path
from threading import Condition
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from tta_bench.data.domain import Domain
from tta_bench.data.readers.base import Record, Sample, open_reader
from tta_bench.data.shades import MANY, shares
from tta_bench.errors import UserError, shown
from tta_bench.runtime.locks import acquire_lock
from tta_bench.schema import DataConfig

log = logging.getLogger(__name__)

LAYOUT_VERSION = 2
"""Of the cache entries; raise it whenever the same files would be decoded into other arrays."""

FAULTS_SHOWN = 20
"""Further faults are only counted."""

_CHUNK = 64  # pairs decoded ahead, at most
_MEMORY = 2**30  # bytes for pairs that are being decoded, and again for those that wait to be written
_PART = ".part"


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
    _remove_leftovers(cache)
    prepared: dict[str, Prepared] = {}
    faults: list[str] = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (progress and console.is_terminal)) as bars:
        for name in dict.fromkeys(names):
            try:
                records = reader.records(name)[: config.limit]
                entry = _entry(config, name, records, cache, bars)
                _check_values(config, name, records, [dict(counts) for counts in entry.index["counts"]])
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
    folder = cache / _digest([LAYOUT_VERSION, config.name, config.image_size, config.shades, stamps])
    entry = _load(folder)
    if entry is not None:
        return entry
    cache.mkdir(parents=True, exist_ok=True)
    lock = acquire_lock(_lock_of(folder), "prepares the same images")
    try:
        entry = _load(folder)  # another process may have made it in the meantime
        if entry is None:
            log.info("preparing %d images of domain %s", len(records), name)
            task = bars.add_task(escape(f"Preparing {shown(name)}"), total=len(records))
            _build(records, config.image_size, folder, lambda: bars.advance(task))
            entry = _load(folder)
    finally:
        lock.release()
    if entry is None:
        raise OSError(f"{folder} is not readable after writing it")
    return entry


def _load(folder: Path) -> _Entry | None:
    """Map a cache entry into memory; None if it is absent or not what was written."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if index.pop("checksum") != _digest(index):
            return None
        images, masks = (folder / name for name in ("images.npy", "masks.npy"))
        if [_known_checksum(path, *_state(path)) for path in (images, masks)] != index["checksums"]:
            return None
        return _Entry(np.load(images, mmap_mode="r"), np.load(masks, mmap_mode="r"), index)
    except Exception:  # a damaged file raises errors of many types
        return None


def _state(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@memoised
def _known_checksum(path: Path, *state: int) -> int:
    """As :func:`_checksum`, once per process while the file's state stays: it takes a second for 2 GB."""
    return _checksum(path)


def _checksum(path: Path) -> int:
    """CRC-32 of a file."""
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(2**20):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _build(records: Sequence[Record], size: int, folder: Path, advance: Callable[[], None]) -> None:
    """Decode all records into a new cache entry; the caller holds its lock.

    Raises:
        UserError: with the faults of all records; nothing is left behind.
        OSError: the entry cannot be written.
    """
    part, damaged = (folder.with_name(f"{folder.name}{_PART}{more}") for more in ("", "-damaged"))
    if folder.exists():
        log.warning("the prepared images in %s are damaged: they count as missing and are made anew", folder)
    try:
        part.mkdir()
        _write(part, records, size, advance)
        if folder.exists():
            folder.rename(damaged)
        part.rename(folder)
    finally:
        for leftover in (part, damaged):
            _remove(leftover)


def _lock_of(folder: Path) -> Path:
    """The lock file of a cache entry, which stays: removing it would free it for two at once."""
    return folder.with_name(f"{folder.name}.lock")


def _write(part: Path, records: Sequence[Record], size: int, advance: Callable[[], None]) -> None:
    """Fill a folder with the arrays and the index of a cache entry."""
    image_shape, mask_shape = (len(records), size, size, 3), (len(records), size, size)
    sizes: list[tuple[int, int]] = []
    counts: list[list[tuple[int, int]]] = []
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
                counts.append(list(outcome.counts.items()))
        for file in (images, masks):
            _flush(file)
    if faults:
        raise UserError(faults)
    index = {
        "checksums": [_checksum(part / "images.npy"), _checksum(part / "masks.npy")],
        "image_names": [record.name for record in records],
        "sizes": sizes,
        "counts": counts,
        "content": content.hexdigest(),
    }
    with (part / "index.json").open("wb") as file:
        file.write(json.dumps({**index, "checksum": _digest(index)}).encode())
        _flush(file)


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Begin an ``.npy`` file of uint8 values."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _flush(file: BinaryIO) -> None:
    """Bring a file to the disk before it gets the name under which it counts."""
    file.flush()
    os.fsync(file.fileno())


class _Budget:
    """Lets threads work side by side as long as what they need together fits; a single one always may.

    Args:
        total: bytes.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._held = 0
        self._changed = Condition()

    @contextlib.contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait for ``amount`` bytes, and give them back afterwards."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + amount <= self._total)
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()


def _read_all(records: Sequence[Record], size: int) -> Iterator[tuple[Record, Sample | UserError]]:
    """Decode records in parallel, hand them back in order."""
    budget = _Budget(_MEMORY)

    def read(record: Record) -> Sample | UserError:
        try:
            with budget.hold(record.memory(size)):
                return record.read(size)
        except UserError as error:
            return error

    ahead = max(1, min(_CHUNK, _MEMORY // (4 * size * size)))
    # Threads suffice: Pillow decodes and resizes without the interpreter lock.
    with ThreadPoolExecutor(min(ahead, os.cpu_count() or 1)) as pool:
        for start in range(0, len(records), ahead):
            chunk = records[start : start + ahead]
            yield from zip(chunk, pool.map(read, chunk), strict=True)


def _remove_leftovers(cache: Path) -> None:
    """Delete what preparations that were killed have left: those whose lock the system has freed."""
    for path in cache.glob(f"*{_PART}*"):
        lock = FileLock(_lock_of(cache / path.name.partition(_PART)[0]))
        with contextlib.suppress(OSError), lock.acquire(timeout=0):  # a held lock is a time-out, which is an OSError
            _remove(path)


def _remove(path: Path) -> None:
    """Delete a folder or a file, as far as that is possible."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()


def _check_values(config: DataConfig, name: str, records: Sequence[Record], found: Sequence[Mapping[int, int]]) -> None:
    """Refuse mask values that have no meaning; 0 is always background.

    Args:
        config: with the classes.
        name: of the domain.
        records: its images.
        found: pixels of each mask value of each of them.

    Raises:
        UserError: naming the values, the first mask that has them and the key to set.
    """
    known = {0}.union(*config.classes.values())
    odd = [record.origin for record, counts in zip(records, found, strict=True) if not known.issuperset(counts)]
    if not odd:
        return
    together = sum(map(Counter, found), Counter())
    values = sorted(together)
    if len(values) > MANY:
        remedy = "so many values come from smoothing or compression, so export the class numbers anew as PNG"
    else:
        example = ",".join(str(value) for value in values if value)
        remedy = f"list the values of each class, for example data.classes.{next(iter(config.classes))}=[{example}]"
    classes = "; ".join(f"{key}: {list(members)}" for key, members in config.classes.items())
    raise UserError(
        f"domain '{name}': {len(odd)} of {len(records)} masks have values that data.classes ({classes}) does not "
        f"list (values found: {shares(together, values)}; first mask: {odd[0]}): {remedy}"
    )


def _digest(content: Any) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
