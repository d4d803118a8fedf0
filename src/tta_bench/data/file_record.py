"""An image file and a mask file that belong together: when they have changed, and what is wrong with them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tta_bench.data.images import read_image, read_mask, resize, stored_pixels, value_counts
from tta_bench.data.readers.base import Sample
from tta_bench.data.shades import class_numbers
from tta_bench.errors import UserError
from tta_bench.schema import MAX_PIXELS

_BYTES_PER_STORED_PIXEL = 16  # Pillow's image, its array and what a conversion adds


@dataclass(frozen=True)
class FileRecord:
    """A pair of files.

    Attributes:
        name: identifier of the image within its domain.
        image: path of the image.
        mask: path of the mask.
        shades: grey codes of the mask, see :func:`tta_bench.data.shades.class_numbers`; None: class numbers.
        listed: another name under which a list has the mask, for the message if it is not there.
        max_pixels: refuse larger files.
    """

    name: str
    image: Path
    mask: Path
    shades: Mapping[str, Sequence[int]] | None = None
    listed: Path | None = None
    max_pixels: int = MAX_PIXELS

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
        """Decode, check and resize the pair.

        Raises:
            UserError: with the faults of both files, or the mismatch between them.
        """
        faults: list[str] = []
        try:
            image = read_image(self.image, self.max_pixels)
            if image.min() == image.max():
                faults.append(
                    f"{self.image} is constant (every value is {image.min()}), nothing can be seen in it: "
                    "remove the pair"
                )
        except UserError as error:
            faults += error.faults
        try:
            self._require_listed()
            mask = read_mask(self.mask, grey=self.shades is not None, max_pixels=self.max_pixels)
            if self.shades is not None:
                mask = class_numbers(mask, self.shades, self.mask)
        except UserError as error:
            faults += error.faults
        if faults:
            raise UserError(faults)
        height, width = mask.shape
        if image.shape[:2] != mask.shape:
            raise UserError(
                f"{self.image} has {image.shape[1]}x{image.shape[0]} pixels (width x height) but its mask "
                f"{self.mask} has {width}x{height}: give both the same size"
            )
        return Sample(*resize(image, mask, size), height, width, value_counts(mask))

    def _require_listed(self) -> None:
        """Say under which name a mask is looked for, where that is not the listed one."""
        if self.listed is not None and not os.path.lexists(self.mask):
            there = "exists, but is not used: rename it" if os.path.lexists(self.listed) else "does not exist either"
            raise UserError(
                f"{self.mask} does not exist: a mask that is listed as NAME.tif lies on disk as NAME-1.tif, as in the "
                f"authors' archive ({self.listed} {there}): put it there"
            )
