"""NumPy's own files, ``.npy`` and ``.npz``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tta_bench.data.decoders.base import (
    Decoder,
    Stack,
    real_numbers,
    register_decoder,
    require_small,
    sentences,
    slices_of,
    whole_numbers,
)
from tta_bench.errors import UserError

_IMAGES, _MASKS = ("image",), ("mask", "label")
"""What the array is called where a file holds several."""


@register_decoder("arrays")
class ArrayDecoder(Decoder):
    """An array ``[height, width]``, ``[height, width, 1]`` or ``[height, width, 3]``.

    Any other of three axes is a volume, whose own axes are x, y and z.
    """

    @classmethod
    def suffixes(cls) -> frozenset[str]:
        """See :class:`Decoder`."""
        return frozenset((".npy", ".npz"))

    def shape(self, path: Path, axis: int) -> tuple[int | None, int, int]:
        """See :class:`Decoder`; of an ``.npz`` file the array itself has to be read."""
        with sentences(path):
            array = _array(path, _IMAGES + _MASKS)
            slices = _pictures(path, array, axis)
            return (len(slices) if _is_volume(array) else None, slices.shape[1], slices.shape[2])

    def read(self, path: Path, axis: int, max_pixels: int) -> Stack:
        """See :class:`Decoder`."""
        return Stack(self._values(path, axis, max_pixels, _IMAGES))

    def mask(self, path: Path, axis: int, max_pixels: int, grey: bool = False) -> np.ndarray:
        """See :class:`Decoder`."""
        return whole_numbers(path, self._values(path, axis, max_pixels, _MASKS))

    def _values(self, path: Path, axis: int, max_pixels: int, names: tuple[str, ...]) -> np.ndarray:
        with sentences(path):
            slices = _pictures(path, _array(path, names), axis)
            require_small(path, slices.shape[:3], max_pixels)
            return real_numbers(path, np.ascontiguousarray(slices))


def _array(path: Path, names: tuple[str, ...]) -> np.ndarray:
    """The array of a file, without executing anything in it."""
    content: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(content, np.ndarray):
        return content
    with content:
        wanted = content.files if len(content.files) == 1 else [name for name in names if name in content.files]
        if not wanted:
            raise UserError(
                f"{path} holds the arrays {', '.join(content.files) or 'none'}: save one alone, or call it {names[0]}"
            )
        return content[wanted[0]]


def _is_volume(array: np.ndarray) -> bool:
    return array.ndim == 3 and array.shape[-1] not in (1, 3)


def _pictures(path: Path, array: np.ndarray, axis: int) -> np.ndarray:
    """``[slices, height, width]`` or ``[1, height, width, 3]``."""
    if array.ndim not in (2, 3):
        raise UserError(
            f"{path} holds an array of shape {list(array.shape)}: save [height, width], [height, width, 3] or a volume "
            "of three axes"
        )
    if _is_volume(array):
        return slices_of(array, axis)
    return array[None, ..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array[None]
