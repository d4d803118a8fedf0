"""An image file and its mask file: when they have changed, and what is wrong with them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tta_bench.data.decoders.base import AXIS, decoder_of, file_state
from tta_bench.data.images import MAX_PIXELS
from tta_bench.data.intensity import grey_levels
from tta_bench.data.mask_sources import MaskSource
from tta_bench.data.readers.base import Sample
from tta_bench.data.shades import class_numbers
from tta_bench.errors import UserError
from tta_bench.runtime.files_section import IntensityConfig

_BYTES_PER_STORED_PIXEL = 16  # Pillow's image, its array and what a conversion adds


Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class FileRecord:
    """An image file and its mask file."""

    name: str  # identifier of the image within its domain
    image: Path  # path of the image
    mask: Path  # path of the mask, or of the one that would have to be there
    labelled: bool = True  # whether the image has a mask
    # Grey codes of the mask, see :func:`tta_bench.data.shades.class_numbers`; None: class numbers.
    shades: Mapping[str, Sequence[int]] | None = None
    listed: Path | None = None  # another name under which a list has the mask, for the message if it is not there
    max_pixels: int = MAX_PIXELS  # refuse larger files
    source: MaskSource | None = None  # what the mask is made of; None: of the one file
    intensity: IntensityConfig | None = None  # see :func:`tta_bench.data.intensity.grey_levels`
    case: str | None = None  # name of the volume that the image is a slice of
    slice: int | None = None  # its number there, from 0
    in_file: bool = False  # whether the file holds the whole volume
    axis: int = AXIS  # of the volume, that its slices are counted along

    @property
    def origin(self) -> str:
        """Path of the mask."""
        return str(self.mask)

    def stamp(self) -> Sequence[str | int]:
        """Path, size and modification time (ns) of all files; those of a missing file are left out."""
        stamp: list[str | int] = [] if self.slice is None else [self.slice]
        for path in (self.image, *((self.mask,) if self.source is None else self.source.paths)):
            stamp.append(str(path.absolute()))
            with contextlib.suppress(OSError):  # ``read`` reports it, together with the other faults
                status = path.stat()
                stamp += [status.st_size, status.st_mtime_ns]
        return stamp

    def memory(self, size: int) -> int:
        """By the headers of both files; of a volume what a slice takes beside the volume itself."""
        pixels = max(_stored_pixels(path, self.axis) for path in (self.image, self.mask))
        return _BYTES_PER_STORED_PIXEL * min(pixels, self.max_pixels)

    def read(self, size: int) -> Sample:
        """Decode and check.

        Raises:
            UserError: with the faults of both files, or the mismatch between them.
        """
        faults: list[str] = []
        image = mask = spacing = None
        try:
            image, spacing = self._image()
        except UserError as error:
            faults += error.faults
        try:
            mask = self._mask() if self.labelled else None
        except UserError as error:
            faults += error.faults
        if image is None or faults:
            raise UserError(faults)
        height, width = image.shape[:2]
        if mask is None:
            return Sample(image, None, spacing)
        if mask.shape != (height, width):
            raise UserError(
                f"{self.image} has {width}x{height} pixels (width x height) but its mask "
                f"{self.mask} has {mask.shape[1]}x{mask.shape[0]}: give both the same size"
            )
        if self.in_file and self.source is None and _apart(self.image, self.mask):
            raise UserError(
                f"{self.image} and its mask {self.mask} lie at different places in the patient, by the affines of "
                "their headers: give the mask the header of its image, if its voxels are the same"
            )
        return Sample(image, mask, spacing)

    def levels(self) -> np.ndarray:
        """The grey levels of the image as stored: uint8 or float32 ``[height, width, 3]``.

        Raises:
            UserError: as :meth:`read`, about the image alone.
        """
        return self._image()[0]

    def _image(self) -> tuple[np.ndarray, Spacing | None]:
        """Grey levels ``[height, width, 3]`` and spacing of the image; one in which nothing can be seen is refused."""
        arguments = (self.axis, self.max_pixels, self.intensity)
        picture = _kept(self.image, _levels, *arguments) if self.in_file else _levels(self.image, *arguments)
        levels = picture.levels[self._number if self.in_file else 0]
        # An empty slice of a volume is one of its slices.
        if self.case is None and levels.min() == levels.max():
            remedy = "remove it and its mask" if self.labelled else "remove it"
            raise UserError(
                f"{self.image} is constant (every value is {levels.min()}), nothing can be seen in it: {remedy}"
            )
        return levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2), picture.spacing

    @property
    def _number(self) -> int:
        assert self.slice is not None  # of a volume
        return self.slice

    def _mask(self) -> np.ndarray:
        """The decoded mask; where it is not there, under which name it is looked for."""
        if self.listed is not None and not os.path.lexists(self.mask):
            there = "exists, but is not used: rename it" if os.path.lexists(self.listed) else "does not exist either"
            raise UserError(
                f"{self.mask} does not exist: a mask that is listed as NAME.tif lies on disk as NAME-1.tif, as in the "
                f"authors' archive ({self.listed} {there}): put it there"
            )
        masks = (
            self._read_mask(self.mask) if self.source is None else self.source.read(self._read_mask, self.max_pixels)
        )
        if (self.in_file and len(masks) <= self._number) or (not self.in_file and len(masks) > 1):
            raise UserError(
                f"{self.mask} has {len(masks)} slices, and {self.image} has "
                f"{_slices(self.image, self.axis)}: give both the same"
            )
        mask = masks[self._number if self.in_file else 0]
        return mask if self.shades is None else class_numbers(mask, self.shades, self.mask)

    def _read_mask(self, path: Path) -> np.ndarray:
        """The values of a mask file: uint8 ``[slices, height, width]``."""
        if self.in_file:
            return _kept(path, _values, self.axis, self.max_pixels)
        return _values(path, self.axis, self.max_pixels, self.shades is not None)


class _Levels(NamedTuple):
    """Grey levels of all slices of a file, and their spacing."""

    levels: np.ndarray
    spacing: Spacing | None


def _levels(path: Path, axis: int, max_pixels: int, intensity: IntensityConfig | None) -> _Levels:
    stack = decoder_of(path).read(path, axis, max_pixels)
    return _Levels(grey_levels(stack, intensity), stack.spacing)


def _values(path: Path, axis: int, max_pixels: int, grey: bool = False) -> np.ndarray:
    return decoder_of(path).mask(path, axis, max_pixels, grey)


def _apart(image: Path, mask: Path) -> bool:
    """Whether the headers of two volumes contradict each other: in size or direction of voxels, or by half a voxel."""
    one, other = (decoder_of(path).affine(path) for path in (image, mask))
    if one is None or other is None:
        return False
    side = np.sqrt((one[:3, :3] ** 2).sum(0)).min()
    off = np.abs(one - other)[:3]
    return bool(off[:, :3].max() > 0.01 * side or off[:, 3].max() > 0.5 * side)


def _stored_pixels(path: Path, axis: int) -> int:
    """Of a picture or a slice; 0 where the header does not tell, which decoding will explain."""
    try:
        _, height, width = decoder_of(path).shape(path, axis)
    except UserError:
        return 0
    return height * width


def _slices(path: Path, axis: int) -> int:
    return decoder_of(path).shape(path, axis)[0] or 1


_volumes = threading.Lock()


def _kept(path: Path, read: Callable[..., Any], *arguments: Any) -> Any:
    """What is read of a whole volume, once for all slices that follow each other.

    One thread reads at a time, because its neighbours want slices of the same.
    """
    with _volumes:
        return _read_volume(path, file_state(path), read, *arguments)


@lru_cache(maxsize=4)  # an image, its mask, and those of the volume before
def _read_volume(path: Path, state: tuple[int, int], read: Callable[..., Any], *arguments: Any) -> Any:
    return read(path, *arguments)
