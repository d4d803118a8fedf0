"""Low frequencies of images: their amplitudes in a circular window, put in the place of those of other images."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.runtime.transfer import sent

Post = Literal["real_clip", "abs_max"]
"""How restyled pixels come back: their real part cut to [0, 1], or their magnitude divided by the largest."""


@cache
def window(radius: float) -> tuple[tuple[int, int], ...]:
    """The frequencies closer than ``radius`` to zero, as whole cycles per image by row and column.

    With every frequency its opposite is in it, so that real images stay real.

    >>> len(window(0)), len(window(1)), len(window(2))
    (0, 1, 9)
    """
    reach = range(-int(radius), int(radius) + 1)
    return tuple((row, column) for row in reach for column in reach if row**2 + column**2 < radius**2)


def amplitudes(images: Tensor, radius: float) -> Tensor:
    """Amplitudes ``[..., C, frequencies]`` in the window of images ``[..., C, H, W]``, in the unit of the pixels.

    A frequency means the same, and so does its amplitude, in images of any size.

    Raises:
        UserError: the images are too small for the window.
    """
    return torch.fft.fft2(images, norm="forward")[_places(images, radius)].abs()


def restyled(images: Tensor, donors: Tensor, radius: float, post: Post) -> Tensor:
    """Images with the low-frequency amplitudes of others; all phases, and the other amplitudes, are their own.

    Args:
        images: ``[..., C, H, W]`` in [0, 1]; left unchanged.
        donors: :func:`amplitudes` of the others, ``[..., C, frequencies]``; dimensions before may broadcast.
        radius: of the window.
        post: see :data:`Post`.

    Returns:
        In [0, 1], or up to a pixel of 1 for ``abs_max``.

    Raises:
        UserError: the images are too small for the window.
    """
    moved = exchanged(images, donors, radius)
    if post == "real_clip":
        return moved.real.clamp(0, 1)  # folded by a magnitude, a pixel below black would become a bright one
    magnitudes = moved.abs()
    return magnitudes / magnitudes.amax((-3, -2, -1), keepdim=True).clamp(min=1e-12)


def exchanged(images: Tensor, donors: Tensor, radius: float) -> Tensor:
    """As :func:`restyled` before the pixels come back: complex, with an imaginary part of rounding alone."""
    spectrum, places = torch.fft.fft2(images, norm="forward"), _places(images, radius)
    own = spectrum[places]
    # Only what changes is transformed back, so that an image with its own amplitudes stays itself.
    shape = torch.broadcast_shapes(own.shape[:-1], donors.shape[:-1])
    change = spectrum.new_zeros(*shape, *images.shape[-2:])
    change[places] = torch.polar(donors.to(images.dtype), own.angle()) - own
    return images + torch.fft.ifft2(change, norm="forward")


def _places(images: Tensor, radius: float) -> tuple[object, ...]:
    """Where the window lies in a spectrum as ``fft2`` returns it, zero frequency first."""
    height, width = images.shape[-2:]
    if 2 * radius > min(height, width):
        raise UserError(
            f"a window of radius {radius:g} does not fit into the spectrum of {height} x {width} pixels: lower "
            "method.radius"
        )
    both = sent(torch.tensor(window(radius), dtype=torch.long).view(-1, 2), images.device)
    return ..., both[:, 0] % height, both[:, 1] % width
