"""The predictions of a cell, one bit per pixel and class."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from tta_bench.errors import UserError
from tta_bench.records.finished import DamagedError
from tta_bench.runtime.files import file_fault, open_archive

_LARGEST_HEADER = 4096  # bytes before an array's values


@dataclass(frozen=True)
class Predictions:
    """Binary masks of the images of one target.

    Attributes:
        bits: uint8 ``[n, bytes]``, each image's mask packed.
        shape: ``(classes, H, W)`` of one mask.
    """

    bits: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def of(cls, masks: Sequence[np.ndarray]) -> Predictions:
        """Pack bool masks ``[classes, H, W]``."""
        return cls(np.stack([np.packbits(mask) for mask in masks]), masks[0].shape)

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """All images of several, in order; masks of one shape."""
        return cls(np.concatenate([part.bits for part in parts]), parts[0].shape)

    def mask(self, index: int) -> np.ndarray:
        """Bool ``[classes, H, W]`` of one image."""
        return np.unpackbits(self.bits[index], count=int(np.prod(self.shape))).reshape(self.shape).astype(bool)


def predictions_file(predictions: Mapping[str, Predictions]) -> bytes:
    """The content of ``predictions.npz``."""
    arrays: dict[str, np.ndarray] = {}
    for target, masks in predictions.items():
        arrays |= {f"{target}/bits": masks.bits, f"{target}/shape": np.array(masks.shape)}
    file = BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def read_predictions(path: Path, target: str, shape: tuple[int, ...]) -> Predictions:
    """The predictions of one target.

    Args:
        path: of ``predictions.npz``.
        target: name of the domain.
        shape: ``(n, classes, H, W)`` that they have; never are more bytes read than that.

    Raises:
        UserError: the file is gone or damaged, has none of this target, or of another shape.
    """
    images, *mask = shape
    try:
        _check_sizes(path, {target: images}, tuple(mask))
        with open_archive(path) as archive, archive.open(f"{target}/bits.npy") as file:
            bits = np.lib.format.read_array(file, allow_pickle=False)
        if bits.shape != (images, _bytes(mask)) or bits.dtype != np.uint8:
            raise ValueError(f"{bits.dtype} of shape {bits.shape}")
    except Exception as error:  # zipfile and numpy raise many kinds for damaged files
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}): compute the cell again with force=true"
        ) from None
    return Predictions(bits, tuple(mask))


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


def _check_sizes(path: Path, images: Mapping[str, int], mask: tuple[int, ...] | None = None) -> None:
    """Raise some exception unless every target has as many masks as images, of the given shape where there is one."""
    fault = file_fault(path)
    if fault is not None:
        raise ValueError(fault)
    with open_archive(path) as archive:
        for target, n in images.items():
            name = f"{target}/shape.npy"
            if archive.getinfo(name).file_size > _LARGEST_HEADER:
                raise ValueError(f"{name} is too large")
            shape = np.lib.format.read_array(BytesIO(archive.read(name)), allow_pickle=False).tolist()
            if len(shape) != 3 or min(shape) < 1 or (mask is not None and tuple(shape) != mask):
                raise ValueError(f"masks of shape {reprlib.repr(shape)}")
            name = f"{target}/bits.npy"
            if not 0 < archive.getinfo(name).file_size - n * _bytes(shape) <= _LARGEST_HEADER:
                raise ValueError(f"{name} has another size than {n} masks")


def _bytes(shape: Sequence[int]) -> int:
    """Of one packed mask."""
    return -(-math.prod(shape) // 8)
