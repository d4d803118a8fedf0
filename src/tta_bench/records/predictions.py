"""The predictions of a cell, one bit per pixel and class."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from tta_bench.errors import UserError
from tta_bench.records.finished import DamagedError
from tta_bench.runtime.files import file_fault, open_archive

_LARGEST_HEADER = 4096  # bytes before an array's values


Shape = tuple[int, ...]
"""``(classes, H, W)`` of a mask."""


@dataclass(frozen=True)
class Predictions:
    """Binary masks of the images of one target, which may differ in size.

    Attributes:
        bits: uint8 ``[bytes]``: the masks one behind the other, each packed to whole bytes.
        shapes: of the masks, in order.
    """

    bits: np.ndarray
    shapes: tuple[Shape, ...]

    @classmethod
    def of(cls, masks: Sequence[np.ndarray]) -> Predictions:
        """Pack bool masks ``[classes, H, W]``."""
        return cls(np.concatenate([np.packbits(mask) for mask in masks]), tuple(mask.shape for mask in masks))

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """All images of several, in order."""
        return cls(np.concatenate([part.bits for part in parts]), tuple(s for part in parts for s in part.shapes))

    def mask(self, index: int) -> np.ndarray:
        """Bool ``[classes, H, W]`` of one image."""
        start, shape = sum(map(_bytes, self.shapes[:index])), self.shapes[index]
        bits = self.bits[start : start + _bytes(shape)]
        return np.unpackbits(bits, count=math.prod(shape)).reshape(shape).astype(bool)

    def each(self) -> list[Predictions]:
        """Those of every image by itself."""
        ends = [0, *accumulate(map(_bytes, self.shapes))]
        places = zip(pairwise(ends), self.shapes, strict=True)
        return [Predictions(self.bits[start:end], (shape,)) for (start, end), shape in places]


def predictions_file(predictions: Mapping[str, Predictions]) -> bytes:
    """The content of ``predictions.npz``: of each target ``bits [n, bytes]`` and the ``shape`` of every mask.

    Where masks differ in size, ``bits [bytes]`` has one behind the other, and ``shape`` is ``[n, 3]``.
    """
    arrays: dict[str, np.ndarray] = {}
    for target, masks in predictions.items():
        alike = len(set(masks.shapes)) == 1
        bits = masks.bits.reshape(len(masks.shapes), -1) if alike else masks.bits
        arrays |= {f"{target}/bits": bits, f"{target}/shape": np.array(masks.shapes[0] if alike else masks.shapes)}
    file = BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def read_predictions(path: Path, target: str, shapes: Sequence[Shape]) -> Predictions:
    """The predictions of one target.

    Args:
        path: of ``predictions.npz``.
        target: name of the domain.
        shapes: ``(classes, H, W)`` that they have, image by image; never are more bytes read than that. Of prepared
            images :attr:`~tta_bench.data.domain.Domain.prediction_shapes`.

    Raises:
        UserError: the file is gone or damaged, has none of this target, or of other shapes.
    """
    try:
        _check_sizes(path, {target: len(shapes)}, shapes)
        with open_archive(path) as archive, archive.open(f"{target}/bits.npy") as file:
            bits = np.lib.format.read_array(file, allow_pickle=False)
        if bits.size != sum(map(_bytes, shapes)) or bits.dtype != np.uint8:
            raise ValueError(f"{bits.dtype} of shape {bits.shape}")
    except Exception as error:  # zipfile and numpy raise many kinds for damaged files
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}): compute the cell again with force=true"
        ) from None
    return Predictions(bits.reshape(-1), tuple(map(tuple, shapes)))


def check_predictions(path: Path, images: Mapping[str, int], *, decode: bool) -> None:
    """Compare the sizes in ``predictions.npz`` with what they must be.

    Args:
        path: the file.
        images: target -> how many images it has.
        decode: compare all bytes with their checksums too.

    Raises:
        DamagedError: they are others, or the file cannot be read.
    """
    try:
        _check_sizes(path, images)
        if decode:
            with open_archive(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{damaged} is damaged")
    except Exception as error:  # zipfile and numpy raise many kinds for damaged files
        raise DamagedError(f"{path} ({error or type(error).__name__})") from None


def _check_sizes(path: Path, images: Mapping[str, int], shapes: Sequence[Shape] | None = None) -> None:
    """Raise some exception unless every target has as many masks as images, of the given shapes where there are."""
    fault = file_fault(path)
    if fault is not None:
        raise ValueError(fault)
    with open_archive(path) as archive:
        for target, n in images.items():
            name = f"{target}/shape.npy"
            if archive.getinfo(name).file_size > _LARGEST_HEADER + 3 * 8 * n:
                raise ValueError(f"{name} is too large")
            stored = np.lib.format.read_array(BytesIO(archive.read(name)), allow_pickle=False)
            if stored.ndim == 1:
                stored = np.broadcast_to(stored, (n, *stored.shape))
            others = shapes is not None and not np.array_equal(stored, shapes)
            if stored.shape != (n, 3) or stored.min() < 1 or others:
                raise ValueError(f"masks of shape {reprlib.repr(stored.tolist())}")
            name = f"{target}/bits.npy"
            if not 0 < archive.getinfo(name).file_size - sum(map(_bytes, stored.tolist())) <= _LARGEST_HEADER:
                raise ValueError(f"{name} has another size than {n} masks")


def _bytes(shape: Sequence[int]) -> int:
    """Of one packed mask."""
    return -(-math.prod(shape) // 8)
