"""Pictures: PNG, JPEG, BMP, GIF, TIFF, WebP and what else Pillow reads, of 8, 16 and 32 bits and floating point."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tta_bench.data.decoders.base import PICTURES, Decoder, Stack, real_numbers, register_decoder
from tta_bench.data.images import image_suffixes, read_image, stored_size
from tta_bench.data.masks import read_mask


@register_decoder(PICTURES)
class PictureDecoder(Decoder):
    """One picture in a file."""

    @classmethod
    def suffixes(cls) -> frozenset[str]:
        """See :class:`Decoder`."""
        return image_suffixes()

    def shape(self, path: Path, axis: int) -> tuple[int | None, int, int]:
        """See :class:`Decoder`; 0 pixels where the header cannot be read, which decoding will explain."""
        return (None, *stored_size(path))

    def read(self, path: Path, axis: int, max_pixels: int) -> Stack:
        """See :class:`Decoder`."""
        return Stack(real_numbers(path, read_image(path, max_pixels))[None])

    def mask(self, path: Path, axis: int, max_pixels: int, grey: bool = False) -> np.ndarray:
        """See :class:`Decoder`; codecs that may have changed values are refused."""
        return read_mask(path, grey=grey, max_pixels=max_pixels)[None]
