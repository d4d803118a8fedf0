"""The augmentation of pseudo-label training: salt and pepper, gamma, and an erased rectangle, on images in [0, 1]."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NOISY = 0.004
"""Part of the pixels that salt and pepper change."""

SALT = 0.2
"""Part of those that become white where both are drawn."""


def corrupt(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images that are each drawn for on their own; ``images`` stay as they are.

    Salt, pepper, both or none are drawn with equal probability; gamma and the rectangle with one half each.

    Args:
        images: ``[N, 3, H, W]`` in [0, 1], on the CPU.
        generator: of the draws.
    """
    return torch.stack([_corrupted(image, generator) for image in images])


def _corrupted(image: Tensor, generator: torch.Generator) -> Tensor:
    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    noise = int(uniform(0, 4))  # 0: none, 1: salt, 2: pepper, 3: both
    if noise:
        image = salt_and_pepper(image, {1: 1.0, 2: 0.0, 3: SALT}[noise], generator)
    if uniform(0, 1) < 0.5:
        image = image ** (1 / uniform(0.5, 3.5))
    if uniform(0, 1) < 0.5:
        image = erased(image, uniform(0.02, 0.06), uniform(0.3, 0.6), (uniform(0, 1), uniform(0, 1)), uniform(0, 1))
    return image


def salt_and_pepper(image: Tensor, salt: float, generator: torch.Generator) -> Tensor:
    """Set a part :data:`NOISY` of the pixels to white, of which ``salt`` is the part, or black."""
    draw = torch.rand(image.shape[-2:], generator=generator)
    return image.masked_fill(draw < NOISY, 0.0).masked_fill(draw < NOISY * salt, 1.0)


def erased(image: Tensor, area: float, aspect: float, place: tuple[float, float], grey: float) -> Tensor:
    """Fill a rectangle with one grey value.

    Args:
        image: ``[3, H, W]``.
        area: part of the image.
        aspect: height by width.
        place: of its corner, as parts of the room that there is.
        grey: in [0, 1].
    """
    rows, columns = image.shape[-2:]
    height = min(rows, max(1, round(math.sqrt(area * rows * columns * aspect))))
    width = min(columns, max(1, round(math.sqrt(area * rows * columns / aspect))))
    top, left = round(place[0] * (rows - height)), round(place[1] * (columns - width))
    out = image.clone()
    out[..., top : top + height, left : left + width] = grey
    return out
