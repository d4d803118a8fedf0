"""How an image of any size becomes the network's square input, and how logits become a map of the image again.

``stretch`` resizes to the square and loses the aspect ratio, as the paper does. ``pad`` keeps it: the longer side
becomes the square's, and what is left beside the image is its mirror image. ``tile`` resizes nothing: the image is cut
into overlapping squares, which are stacked into one tall image of the network's width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tta_bench.ops.preprocessing import resize_image, resize_mask

if TYPE_CHECKING:
    from torch import Tensor

Fit = Literal["stretch", "pad", "tile"]
ScoreAt = Literal["network", "stored"]

OVERLAP = 1 / 4
"""Least part of a tile's side that it shares with the next one."""


@dataclass(frozen=True)
class Geometry:
    """The way between images as stored and the network's square.

    A stored size is ``(height, width)`` in pixels. Under ``tile`` an image is *kept* as it is stored, otherwise as the
    square; the network's *input* is the square, or the stack ``[..., tiles * side, side]``.

    Attributes:
        side: of the square, pixels.
        fit: ``stretch``, ``pad`` or ``tile``.
    """

    side: int
    fit: Fit = "stretch"

    def image(self, image: NDArray[Any]) -> NDArray[Any]:
        """What is kept of an RGB image ``[height, width, 3]``, uint8 or float32 in grey levels."""
        return self._kept(image, resize_image)

    def mask(self, mask: NDArray[Any]) -> NDArray[Any]:
        """What is kept of mask values uint8 ``[height, width]``; a mirrored pixel has its true value."""
        return self._kept(mask, resize_mask)

    def _kept(self, picture: NDArray[Any], resize: Callable[[NDArray[Any], int, int], NDArray[Any]]) -> NDArray[Any]:
        if self.fit == "tile":
            return picture
        rows, columns = self.place(*picture.shape[:2])
        return self.mirrored(resize(picture, rows.stop - rows.start, columns.stop - columns.start))

    def mirrored(self, picture: NDArray[Any]) -> NDArray[Any]:
        """A picture filled up to the square on all sides by its mirror image; as it is where it is not smaller."""
        missing = [max(0, self.side - length) for length in picture.shape[:2]]
        widths = [(each // 2, each - each // 2) for each in missing]
        return np.pad(picture, [*widths, *[(0, 0)] * (picture.ndim - 2)], mode="symmetric")

    def place(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns that an image of this stored size takes of the square, or of its mirrored self."""
        if self.fit == "stretch":
            return slice(0, self.side), slice(0, self.side)
        scale = 1 if self.fit == "tile" else self.side / max(height, width)
        lengths = [max(1, round(length * scale)) for length in (height, width)]
        rows, columns = (slice(start := max(0, self.side - n) // 2, start + n) for n in lengths)
        return rows, columns

    def corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of each tile of an image that is at least a square, row by row; ``[(0, 0)]`` without tiles."""
        if self.fit != "tile":
            return [(0, 0)]
        rows, columns = (_starts(max(length, self.side), self.side) for length in (height, width))
        return list(product(rows, columns))

    def pieces(self, kept: NDArray[Any]) -> NDArray[Any]:
        """The network's input, ``[tiles * side, side]`` or with channels behind, of what is kept of a picture."""
        if self.fit != "tile":
            return kept
        whole = self.mirrored(kept)
        return np.concatenate([whole[y : y + self.side, x : x + self.side] for y, x in self.corners(*kept.shape[:2])])

    def crop(self, kept: NDArray[Any], where: tuple[float, float]) -> NDArray[Any]:
        """A square of what is kept: where in its free play it begins, from 0 to below 1 from top and from left."""
        whole = self.mirrored(kept)
        y, x = (int(at * (n - self.side + 1)) for at, n in zip(where, whole.shape[:2], strict=True))
        return whole[y : y + self.side, x : x + self.side]

    def size(self, height: int, width: int, at: ScoreAt) -> tuple[int, int]:
        """Height and width of what :meth:`restored` gives."""
        if at == "stored" or self.fit == "tile":
            return height, width
        rows, columns = self.place(height, width)
        return rows.stop - rows.start, columns.stop - columns.start

    def restored(self, logits: Tensor, height: int, width: int, at: ScoreAt) -> Tensor:
        """Logits of the image from those of the network's input: tiles are blended, padding is removed.

        Args:
            logits: ``[channels, tiles * side, side]``.
            height: of the image as stored, pixels.
            width: likewise.
            at: ``stored``: resized to that size, bilinearly; ``network``: at the resolution of the network.

        Returns:
            ``[channels, *size(height, width, at)]``; a view where nothing is to be done.
        """
        rows, columns = self.place(height, width)
        whole = self._blended(logits, height, width) if self.fit == "tile" else logits
        return resized(whole[:, rows, columns], *self.size(height, width, at))

    def _blended(self, logits: Tensor, height: int, width: int) -> Tensor:
        """The mean of the tiles at each pixel, each weighing less towards its border."""
        corners = self.corners(height, width)
        if len(corners) == 1:
            return logits
        import torch

        position = (torch.arange(self.side, dtype=logits.dtype, device=logits.device) + 0.5) / self.side
        window = torch.outer(*[torch.sin(math.pi * position).square()] * 2)
        shape = max(height, self.side), max(width, self.side)
        total, weight = logits.new_zeros(len(logits), *shape), logits.new_zeros(shape)
        for tile, (y, x) in zip(logits.split(self.side, dim=1), corners, strict=True):
            there = ..., slice(y, y + self.side), slice(x, x + self.side)
            total[there] += window * tile
            weight[there] += window
        return total.div_(weight)


def _starts(length: int, side: int) -> Sequence[int]:
    """Where tiles begin along a length of at least a side, evenly spaced: the first at 0, the last ends at its end."""
    steps = math.ceil((length - side) / (side * (1 - OVERLAP)))
    return [round(k * (length - side) / steps) for k in range(steps + 1)] if steps else [0]


def resized(logits: Tensor, height: int, width: int) -> Tensor:
    """Logits ``[classes, h, w]`` at another size, bilinearly; the same tensor where the size is theirs."""
    if logits.shape[-2:] == (height, width):
        return logits
    from torch.nn.functional import interpolate

    return interpolate(logits[None], (height, width), mode="bilinear", align_corners=False)[0]


def unstacked(stack: Tensor, tiles: int) -> Tensor:
    """Tiles ``[N * tiles, C, h, w]``, those of an image next to each other, of stacks ``[N, C, tiles * h, w]``."""
    return stack if tiles == 1 else stack.unflatten(2, (tiles, -1)).transpose(1, 2).flatten(0, 1)


def stacked(tiles: Tensor, count: int) -> Tensor:
    """Inverse of :func:`unstacked`, for maps of any size; of vectors ``[N * count, C]`` the means over the tiles."""
    if count == 1:
        return tiles
    each = tiles.unflatten(0, (-1, count))
    return each.mean(1) if tiles.ndim == 2 else each.transpose(1, 2).flatten(2, 3)
