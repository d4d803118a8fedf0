"""An image file and its mask file: when they have changed, and what is wrong with them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tta_bench.data.images import MAX_PIXELS, read_image, stored_pixels
from tta_bench.data.masks import read_mask
from tta_bench.data.readers.base import Sample
from tta_bench.data.shades import class_numbers
from tta_bench.errors import UserError

_BYTES_PER_STORED_PIXEL = 16  # Pillow's image, its array and what a conversion adds


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

    @property
    def origin(self) -> str:
        """Path of the mask."""
        return str(self.mask)

    def stamp(self) -> Sequence[str | int]:
        """Path, size and modification time (ns) of both files; those of a missing file are left out."""
        stamp: list[str | int] = []
        for path in (self.image, self.mask):
            stamp.append(str(path.absolute()))
            with contextlib.suppress(OSError):  # ``read`` reports it, together with the other faults
                status = path.stat()
                stamp += [status.st_size, status.st_mtime_ns]
        return stamp

    def memory(self, size: int) -> int:
        """By the headers of both files."""
        pixels = max(stored_pixels(self.image), stored_pixels(self.mask))
        return _BYTES_PER_STORED_PIXEL * min(pixels, self.max_pixels)

    def read(self, size: int) -> Sample:
        """Decode and check.

        Raises:
            UserError: with the faults of both files, or the mismatch between them.
        """
        faults: list[str] = []
        image = mask = None
        try:
            image = self._image()
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
            return Sample(image, None)
        if mask.shape != (height, width):
            raise UserError(
                f"{self.image} has {width}x{height} pixels (width x height) but its mask "
                f"{self.mask} has {mask.shape[1]}x{mask.shape[0]}: give both the same size"
            )
        return Sample(image, mask)

    def _image(self) -> np.ndarray:
        """The decoded image; one in which nothing can be seen is refused."""
        image = read_image(self.image, self.max_pixels)
        if image.min() == image.max():
            remedy = "remove it and its mask" if self.labelled else "remove it"
            raise UserError(
                f"{self.image} is constant (every value is {image.min()}), nothing can be seen in it: {remedy}"
            )
        return image

    def _mask(self) -> np.ndarray:
        """The decoded mask; where it is not there, under which name it is looked for."""
        if self.listed is not None and not os.path.lexists(self.mask):
            there = "exists, but is not used: rename it" if os.path.lexists(self.listed) else "does not exist either"
            raise UserError(
                f"{self.mask} does not exist: a mask that is listed as NAME.tif lies on disk as NAME-1.tif, as in the "
                f"authors' archive ({self.listed} {there}): put it there"
            )
        mask = read_mask(self.mask, grey=self.shades is not None, max_pixels=self.max_pixels)
        return mask if self.shades is None else class_numbers(mask, self.shades, self.mask)
