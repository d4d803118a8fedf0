"""What a decoder is: the pixel values of a file of some format, a picture or the slices of a volume."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tta_bench.data.files import require_file
from tta_bench.errors import UserError
from tta_bench.registry import Registry

AXIS = 2
"""The axis that slices are counted along unless ``data.axis`` says otherwise: of x, y and z, the last."""


@dataclass(frozen=True)
class Stack:
    """The pixel values of a file.

    Attributes:
        values: real numbers ``[slices, height, width]``, or ``[slices, height, width, 3]`` in red, green and blue.
        spacing: millimetres from slice to slice, row to row and column to column; None where the file has none.
        window: values that are shown black and white; None where the file has none.
        inverted: whether the lowest value is shown white.
    """

    values: np.ndarray
    spacing: tuple[float, float, float] | None = None
    window: tuple[float, float] | None = None
    inverted: bool = False


class Decoder(ABC):
    """Reads files of one format; knows no configuration."""

    extra: ClassVar[str | None] = None
    """What is to be installed for it: ``pip install 'tta-bench[EXTRA]'``; None for nothing."""

    @classmethod
    @abstractmethod
    def suffixes(cls) -> frozenset[str]:
        """Endings of file names, in lower case with their dot."""

    @abstractmethod
    def shape(self, path: Path, axis: int) -> tuple[int | None, int, int]:
        """Slices, height and width by the header alone; None slices for a picture that is no slice of a volume.

        Raises:
            UserError: the header cannot be read.
        """

    @abstractmethod
    def read(self, path: Path, axis: int, max_pixels: int) -> Stack:
        """All pixel values.

        Args:
            path: the file.
            axis: 0, 1 or 2, along which slices are counted, of x, y and z.
            max_pixels: refuse files of more.

        Raises:
            UserError: missing, damaged, too large, or not a real number for each pixel.
        """

    def mask(self, path: Path, axis: int, max_pixels: int, grey: bool = False) -> np.ndarray:
        """The values of a mask: uint8 ``[slices, height, width]``.

        Args:
            path: the file.
            axis: as for :meth:`read`.
            max_pixels: likewise.
            grey: the values are shades of a picture.

        Raises:
            UserError: as :meth:`read`, and values that are no whole numbers of 0 to 255.
        """
        return whole_numbers(path, self.read(path, axis, max_pixels).values)

    def affine(self, path: Path) -> np.ndarray | None:
        """Where the voxels of a volume, in the order in which they are read, lie in the patient; None if unknown."""
        return None

    def write_mask(self, path: Path, image: Path, mask: np.ndarray, axis: int) -> None:
        """Write the mask of a volume into a file of its own, in the place and orientation of the volume.

        Args:
            path: the new file.
            image: the volume.
            mask: uint8 ``[slices, height, width]``, as :meth:`read` gives those of the volume.
            axis: that they are along.

        Raises:
            NotImplementedError: the format is not written.
        """
        raise NotImplementedError

    def place(self, path: Path) -> float:
        """Where a slice that is a file of its own lies among the others of its case; 0 where its name decides."""
        return 0.0


DECODERS: Registry[type[Decoder]] = Registry("decoder", "tta_bench.data.decoders")

register_decoder = DECODERS.register
"""Class decorator: make a format available by the endings of its files, ``@register_decoder("nifti")``.

Raises:
    ValueError: the name is taken.
"""

PICTURES = "pictures"
"""The decoder of files whose name tells no other: their content decides."""


@cache
def _by_suffix() -> dict[str, Decoder]:
    """Ending -> decoder, the longest first."""
    found = {suffix: DECODERS.get(name)() for name in DECODERS.names() for suffix in DECODERS.get(name).suffixes()}
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def readable_suffixes() -> tuple[str, ...]:
    """Endings of the files that are read, sorted."""
    return tuple(sorted(_by_suffix()))


def suffix_of(name: str) -> str:
    """The ending of a file name, ``.nii.gz`` as one; empty where it is that of no format.

    >>> suffix_of("a.b.NII.GZ")
    '.NII.GZ'
    """
    found = next((suffix for suffix in _by_suffix() if name.lower().endswith(suffix)), "")
    return name[len(name) - len(found) :]


def stem_of(path: Path) -> str:
    """The name of a file without its ending."""
    suffix = suffix_of(path.name)
    return path.name[: -len(suffix)] if suffix and suffix != path.name else path.stem


def slices_in(path: Path, axis: int) -> int | None:
    """How many slices a file has; None for one of pictures, which is not opened, and for one that holds a picture.

    Raises:
        UserError: the header cannot be read.
    """
    decoder = decoder_of(path)
    return None if isinstance(decoder, DECODERS.get(PICTURES)) else decoder.shape(path, axis)[0]


def decoder_of(path: Path) -> Decoder:
    """What reads a file, by its name."""
    return _by_suffix().get(suffix_of(path.name).lower()) or DECODERS.get(PICTURES)()


def library(path: Path, name: str, extra: str) -> Any:
    """The library that reads a format.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise UserError(
            f"{path} needs the library {name}, which is not installed: pip install 'tta-bench[{extra}]'"
        ) from None


@contextmanager
def sentences(path: Path) -> Iterator[None]:
    """Refuse what is no file or empty, and turn whatever a library raises into a sentence."""
    if require_file(path) == 0:
        raise UserError(f"{path} is empty (0 bytes): copy it again from its origin")
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{path} does not fit into the memory: scale it down, and its partner if it has one") from None
    except Exception as error:  # of many kinds, none documented
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path} cannot be read ({reason}): copy it again from its origin") from None


def require_small(path: Path, shape: tuple[int, ...], max_pixels: int) -> None:
    """Refuse an array of no pixel or of more than ``max_pixels``.

    Args:
        path: of the file, for the message.
        shape: of its pixels, colours apart.
        max_pixels: the limit.

    Raises:
        UserError: it is.
    """
    size, pixels = "x".join(map(str, shape)), int(np.prod(shape, dtype=object))
    if pixels < 1:
        raise UserError(f"{path} has {size} pixels: remove it or save it anew")
    if pixels > max_pixels:
        raise UserError(
            f"{path} has {size} pixels, more than data.max_pixels={max_pixels}: scale it down, and its partner if it "
            f"has one, or set data.max_pixels={pixels} if there is memory for it"
        )


def real_numbers(path: Path, values: np.ndarray) -> np.ndarray:
    """The values themselves, of a kind of number that an image may have.

    Raises:
        UserError: complex numbers, text, records of several numbers, or NaN or infinity among them.
    """
    if values.dtype.kind not in "buif":
        kind = "complex numbers" if values.dtype.kind == "c" else f"values of type {values.dtype}"
        raise UserError(f"{path} holds {kind}: save one real number per pixel, the magnitude for instance")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int(np.size(values) - np.isfinite(values).sum())
        raise UserError(f"{path} has {bad} values that are NaN or infinite: replace them by a number and save it anew")
    return values


def whole_numbers(path: Path, values: np.ndarray) -> np.ndarray:
    """Mask values as uint8, whatever numbers they are stored as.

    Raises:
        UserError: colours, fractions, or values outside 0 to 255.
    """
    if values.ndim != 3:
        raise UserError(
            f"{path}: a mask holds one number per pixel, this one holds colours: replace each colour by its class "
            "number, or give data.colours={CLASS: [R, G, B]}"
        )
    low, high = values.min(), values.max()
    if low < 0 or high > 255:
        raise UserError(
            f"{path}: mask values reach from {low} to {high}, 0-255 are possible: renumber them and save it anew"
        )
    numbers = values.astype(np.uint8)
    if values.dtype.kind == "f" and (numbers != values).any():
        raise UserError(
            f"{path}: mask values are fractions, such as {values[numbers != values][0]:g}: save class numbers, without "
            "smoothing or resampling"
        )
    return numbers


def slices_of(volume: np.ndarray, axis: int) -> np.ndarray:
    """The slices of a volume ``[x, y, z]`` along an axis, as pictures: ``[slices, height, width]``.

    Of the axes that are left, the first runs along the columns of a picture and the second along its rows.
    """
    return np.moveaxis(volume, axis, 0).swapaxes(1, 2)


def volume_of(slices: np.ndarray, axis: int) -> np.ndarray:
    """The volume ``[x, y, z]`` of slices, the inverse of :func:`slices_of`."""
    return np.moveaxis(slices.swapaxes(1, 2), 0, axis)


def sliced_spacing(spacing: tuple[float, ...], axis: int) -> tuple[float, float, float]:
    """Millimetres along x, y and z as those from slice to slice, row to row and column to column."""
    columns, rows = (spacing[each] for each in range(3) if each != axis)
    return (float(spacing[axis]), float(rows), float(columns))


def file_state(path: Path) -> tuple[int, int]:
    """What changes when a file is written; zeros where it cannot be told."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
