"""The cache of prepared images: arrays that are written once and mapped into memory by every later run.

An entry is a folder ``<key>/`` with ``images.npy``, ``masks.npy`` (where there are masks) and ``index.json``. Masks as
stored, where they are kept, are compressed in ``truths.bin``; images that are kept as stored lie in ``images.bin``. Its
key covers everything that its content depends on, so an entry is never changed: it is valid, or absent or damaged and
made anew. It is written as ``<key>.part`` by the process that holds ``<key>.lock``, and renamed, so that a killed run
or a second process never leaves half an entry. Entries of files that have since changed stay until the folder is
deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache as memoised
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock

from tta_bench.data.decoding import Fitted
from tta_bench.data.ragged import Ragged
from tta_bench.errors import UserError
from tta_bench.ops.geometry import Geometry
from tta_bench.runtime.locks import acquire_lock

log = logging.getLogger(__name__)

_PART = ".part"
_ARRAYS = ("images.npy", "masks.npy")
_STORED_IMAGES, _TRUTHS = "images.bin", "truths.bin"


@dataclass(frozen=True)
class Entry:
    """A valid cache entry.

    Attributes:
        images: uint8 or float32 ``[n, size, size, 3]``, or of the size as stored; memory-mapped.
        masks: uint8 ``[n, size, size]``, memory-mapped; None without masks, and where images are kept as stored.
        truths: the masks as stored; None where they are not kept.
        index: ``image_names``, ``sizes`` (height, width) as stored, ``counts`` of mask values as pairs, ``content``, a
            digest of names and pixels, and ``spacings`` where files have any.
    """

    images: np.ndarray | Ragged
    masks: np.ndarray | None
    truths: Ragged | None
    index: dict[str, Any]


def digest(content: Any) -> str:
    """A short hash of plain values."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def open_entry(folder: Path) -> Entry | None:
    """Map a cache entry into memory; None if it is absent or not what was written."""
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if index.pop("checksum") != digest(index):
            return None
        names = index.get("files", _ARRAYS[: len(index["checksums"])])
        if [_known_checksum(path, *_state(path)) for path in (folder / name for name in names)] != index["checksums"]:
            return None
        images, masks = (np.load(folder / name, mmap_mode="r") if name in names else None for name in _ARRAYS)
        sizes = [tuple(size) for size in index["sizes"]]
        if images is None:
            stored = np.memmap(folder / _STORED_IMAGES, np.uint8, "r")
            images = Ragged(stored, [(*size, 3) for size in sizes], kinds=index["kinds"])
        lengths = index.get("truths")
        truths = Ragged(np.memmap(folder / _TRUTHS, np.uint8, "r"), sizes, lengths) if lengths else None
        return Entry(images, masks, truths, index)
    except Exception:  # a damaged file raises errors of many types
        return None


@contextlib.contextmanager
def sole_maker(folder: Path) -> Iterator[None]:
    """Keep other processes from making the same entry."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = acquire_lock(_lock_of(folder), "prepares the same images")
    try:
        yield
    finally:
        lock.release()


def write_entry(
    folder: Path,
    names: Sequence[str],
    geometry: Geometry,
    labelled: bool,
    truth: bool,
    samples: Iterable[Fitted | UserError],
) -> None:
    """Make an entry, in the place of a damaged one if there is one; the caller is its :func:`sole_maker`.

    Args:
        folder: of the entry.
        names: of the images.
        geometry: of the samples.
        labelled: whether all samples have masks, or none is kept.
        truth: whether the masks are kept as stored.
        samples: one for each name, or the faults of that image.

    Raises:
        UserError: with the faults of all images; nothing is left behind.
        OSError: the entry cannot be written.
    """
    part, damaged = (folder.with_name(f"{folder.name}{_PART}{more}") for more in ("", "-damaged"))
    if folder.exists():
        log.warning("the prepared images in %s are damaged: they count as missing and are made anew", folder)
    try:
        part.mkdir()
        _write(part, names, geometry, labelled, truth, samples)
        if folder.exists():
            folder.rename(damaged)
        part.rename(folder)
    finally:
        for leftover in (part, damaged):
            _remove(leftover)


def remove_leftovers(cache: Path) -> None:
    """Delete what preparations that were killed have left: those whose lock the system has freed."""
    for path in cache.glob(f"*{_PART}*"):
        lock = FileLock(_lock_of(cache / path.name.partition(_PART)[0]))
        with contextlib.suppress(OSError), lock.acquire(timeout=0):  # a held lock is a time-out, which is an OSError
            _remove(path)


def _write(
    part: Path,
    names: Sequence[str],
    geometry: Geometry,
    labelled: bool,
    truth: bool,
    samples: Iterable[Fitted | UserError],
) -> None:
    """Fill a folder with the arrays and the index of a cache entry."""
    as_stored, square = geometry.fit == "tile", (geometry.side, geometry.side)
    shapes = ((len(names), *square, 3), (len(names), *square))
    arrays = [_STORED_IMAGES] if as_stored else _ARRAYS[: 1 + labelled]
    paths = [part / name for name in [*arrays, *[_TRUTHS] * truth]]
    lengths: list[int] = []
    sizes: list[tuple[int, int]] = []
    counts: list[list[tuple[int, int]]] = []
    faults: list[str] = []
    spacings: list[tuple[float, ...] | None] = []
    kinds: list[str] = []  # of numbers, of each image that is kept as stored
    dtype = np.dtype(np.uint8)  # of the images
    content = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        # Plain sequential writes: a full disk raises an error, where writing to a memory map kills the process.
        files: list[BinaryIO] = [stack.enter_context(path.open("wb")) for path in paths]
        for file, shape in zip(files[: len(arrays)], () if as_stored else shapes, strict=False):
            _write_header(file, shape)
        for name, sample in zip(names, samples, strict=True):
            if isinstance(sample, UserError):
                faults += sample.faults
            elif not faults:
                content.update(name.encode())
                if as_stored:
                    kinds.append(sample.image.dtype.str)
                elif sample.image.dtype != dtype:
                    if dtype == np.uint8:
                        dtype = sample.image.dtype
                        files[0] = stack.enter_context(_widened(files[0], paths[0], shapes[0], len(sizes), dtype))
                    sample = replace(sample, image=sample.image.astype(dtype))
                for file, array in zip(files[: len(arrays)], (sample.image, sample.mask), strict=False):
                    assert array is not None  # of labelled images
                    pixels = array.tobytes()
                    file.write(pixels)
                    content.update(pixels)
                if truth:
                    assert sample.truth is not None
                    lengths.append(files[-1].write(sample.truth))
                    content.update(sample.truth_sha256)
                sizes.append((sample.height, sample.width))
                counts.append(list(sample.counts.items()))
                spacings.append(sample.spacing)
        for file in files:
            _flush(file)
    if faults:
        raise UserError(faults)
    index = {
        "checksums": [_checksum(path) for path in paths],
        "files": [path.name for path in paths],
        "truths": lengths,
        "image_names": list(names),
        "sizes": sizes,
        "counts": counts,
        "content": content.hexdigest(),
        **({"spacings": spacings} if any(spacings) else {}),
        **({"kinds": kinds} if kinds else {}),
    }
    with (part / "index.json").open("wb") as file:
        file.write(json.dumps({**index, "checksum": digest(index)}).encode())
        _flush(file)


def _write_header(file: BinaryIO, shape: tuple[int, ...], dtype: str = "|u1") -> None:
    """Begin an ``.npy`` file."""
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


def _widened(file: BinaryIO, path: Path, shape: tuple[int, ...], done: int, dtype: np.dtype) -> BinaryIO:
    """Begin the file anew in another type of numbers, with the ``done`` images that it has."""
    file.flush()
    wider = path.with_name(f"{path.name}.wider")
    new = wider.open("wb")
    _write_header(new, shape, dtype.str)
    length = int(np.prod(shape[1:]))
    with path.open("rb") as before:
        np.lib.format.read_magic(before)
        np.lib.format.read_array_header_1_0(before)
        for _ in range(done):
            new.write(np.frombuffer(before.read(length), np.uint8).astype(dtype).tobytes())
    file.close()
    wider.replace(path)
    return new


def _flush(file: BinaryIO) -> None:
    """Bring a file to the disk before it gets the name under which it counts."""
    file.flush()
    os.fsync(file.fileno())


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


def _lock_of(folder: Path) -> Path:
    """The lock file of a cache entry, which stays: removing it would free it for two at once."""
    return folder.with_name(f"{folder.name}.lock")


def _remove(path: Path) -> None:
    """Delete a folder or a file, as far as that is possible."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()
