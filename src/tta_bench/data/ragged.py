"""Pictures of different sizes, one behind the other in one flat array."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Ragged:
    """A sequence of arrays of different shapes.

    Args:
        flat: uint8 ``[bytes]``, usually memory-mapped.
        shapes: of the arrays, in order.
        lengths: bytes of each in ``flat``, which holds them compressed by :func:`packed`; None: as they are.
        kinds: NumPy's name of the numbers of each; None: all are uint8.
    """

    def __init__(
        self,
        flat: NDArray[np.uint8],
        shapes: Sequence[tuple[int, ...]],
        lengths: Sequence[int] | None = None,
        kinds: Sequence[str] | None = None,
    ) -> None:
        self._kinds = [np.dtype(kind) for kind in kinds or ["|u1"] * len(shapes)]
        plain = [int(np.prod(shape)) * kind.itemsize for shape, kind in zip(shapes, self._kinds, strict=True)]
        sizes = plain if lengths is None else lengths
        self._flat, self._shapes, self._compressed = flat, [tuple(shape) for shape in shapes], lengths is not None
        ends = [*accumulate(sizes)]
        if sum(sizes) != len(flat):
            raise ValueError(f"{len(flat)} bytes, not {sum(sizes)}")
        self._places = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]

    def __len__(self) -> int:
        """Number of arrays."""
        return len(self._shapes)

    def __getitem__(self, index: int) -> NDArray[Any]:
        """One of them."""
        piece = self._flat[self._places[index]]
        values = np.frombuffer(zlib.decompress(piece.tobytes()), np.uint8) if self._compressed else piece
        return np.frombuffer(values, self._kinds[index]).reshape(self._shapes[index])

    def chosen(self, indices: Sequence[int]) -> Ragged:
        """Some of them, in this order, without a copy."""
        part = copy.copy(self)
        part._shapes = [self._shapes[index] for index in indices]
        part._kinds = [self._kinds[index] for index in indices]
        part._places = [self._places[index] for index in indices]
        return part

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """All of them, in order."""
        return (self[index] for index in range(len(self)))


def packed(array: NDArray[np.uint8]) -> bytes:
    """The array's bytes, compressed: a mask becomes a hundredth of itself."""
    return zlib.compress(np.ascontiguousarray(array).tobytes(), 1)
