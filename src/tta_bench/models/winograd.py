"""Convolutions with kernels of three rows for half the products: Winograd's F(4, 3), down the columns of a map.

Four rows of the output are sums of twelve products, each of a row of the kernel with a row of the input. They are sums
of six, too: of six combinations of the kernel's rows with as many of six rows of the input. Polynomials are multiplied
by their values at points, which are 0, both signs of :data:`NEAR` and :data:`FAR`, and infinity. Across a map the six
are convolutions as any other, with kernels of one row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

POINTS = 6
ROWS = 4
"""Of the output that are computed together."""

NEAR, FAR = 5 / 8, 3 / 2
"""Points whose sums lose few digits: the error is 1.5 times that of twelve products, with 1 and 2 it is 2.3 times."""

_NEAR2, _FAR2 = NEAR**2, FAR**2


def _kernels() -> Tensor:
    """The combinations of a kernel's three rows, ``[POINTS, 3]``."""
    near, far = 1 / (2 * _NEAR2 * (_NEAR2 - _FAR2)), 1 / (2 * _FAR2 * (_FAR2 - _NEAR2))
    return torch.tensor(
        [
            [1 / (_NEAR2 * _FAR2), 0, 0],
            *([near, sign * near * NEAR, near * _NEAR2] for sign in (1, -1)),
            *([far, sign * far * FAR, far * _FAR2] for sign in (1, -1)),
            [0, 0, 1],
        ],
        dtype=torch.float64,
    )


def combined_kernels(weight: Tensor) -> Tensor:
    """Of a weight ``[outputs, inputs, 3, width]``, by point: ``[POINTS * outputs, inputs, 1, width]``."""
    made = torch.einsum("pr,oirw->poiw", _kernels(), weight.double())
    return made.flatten(0, 1)[:, :, None].to(weight.dtype)


def combined_rows(x: Tensor, padding: int) -> Tensor:
    """What the kernels of the points are convolved with, in as many groups.

    Args:
        x: ``[N, C, H, W]``.
        padding: rows of zeros above and below, so that the output's are a multiple of :data:`ROWS`.

    Returns:
        ``[N, POINTS * C, H', W]``, a row for every four of the output, with the channels of a pixel side by side.
    """
    images, channels, height, width = x.shape
    count = (height + 2 * padding - 2) // ROWS
    pixels = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    padded = F.pad(pixels, (0, 0, 0, 0, padding, padding))
    rows = [padded[:, first : first + ROWS * count - 3 : ROWS] for first in range(POINTS)]
    made = x.new_empty(images, count, width, POINTS, channels)
    at = made.unbind(3)
    for plus, minus, point, other in ((1, 2, NEAR, _FAR2), (3, 4, FAR, _NEAR2)):
        even, odd = torch.sub(rows[4], rows[2], alpha=other), torch.sub(rows[3], rows[1], alpha=other)
        torch.add(even, odd, alpha=point, out=at[plus])
        torch.sub(even, odd, alpha=point, out=at[minus])
    # At 0 and infinity: with what was made for the points that are far.
    torch.sub(even, torch.sub(rows[2], rows[0], alpha=_NEAR2), alpha=_FAR2, out=at[0])
    torch.sub(torch.sub(rows[5], rows[3], alpha=_NEAR2), odd, alpha=_FAR2, out=at[5])
    return made.flatten(3).permute(0, 3, 1, 2)


def output_rows(products: Tensor) -> Tensor:
    """The convolution ``[N, outputs, 4 * H', W]`` from the products ``[N, POINTS * outputs, H', W]``."""
    images, channels, count, width = products.shape
    at = products.permute(0, 2, 3, 1).unflatten(3, (POINTS, -1)).unbind(3)
    made = products.new_empty(images, count, ROWS, width, channels // POINTS)
    rows = made.unbind(2)
    even, odd = at[1] + at[2], (at[1] - at[2]).mul_(NEAR)
    far_even, far_odd = at[3] + at[4], (at[3] - at[4]).mul_(FAR)
    torch.add(even, far_even, out=rows[0]).add_(at[0])
    torch.add(odd, far_odd, out=rows[1])
    torch.add(even.mul_(_NEAR2), far_even, alpha=_FAR2, out=rows[2])
    torch.add(odd.mul_(_NEAR2), far_odd, alpha=_FAR2, out=rows[3]).add_(at[5])
    return made.flatten(1, 2).permute(0, 3, 1, 2)
