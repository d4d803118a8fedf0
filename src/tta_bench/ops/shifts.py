"""Synthetic shifts of appearance: what another camera, light or hand might have made of the same image.

Every shift keeps the geometry, so that the masks of an image stay true, and takes grey levels of 8 bits to grey levels
of 8 bits, as a file would hold them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tta_bench.ops.views import gaussian_blur, reach
from tta_bench.runtime.ranges import Range


@dataclass(frozen=True)
class Shift:
    """One kind of shift.

    Attributes:
        function: ``(image [3, H, W] in [0, 1], strength, generator) -> [3, H, W]``, which may leave [0, 1].
        strengths: that it may have.
        identity: the strength that changes nothing.
    """

    function: Callable[[Tensor, float, torch.Generator], Tensor]
    strengths: Range
    identity: float


def shifted(image: Tensor, name: str, strength: float, generator: torch.Generator) -> Tensor:
    """An image under one of :data:`SHIFTS`.

    Args:
        image: grey levels ``[3, H, W]``, 0 to 255, floating; left unchanged.
        name: of the shift.
        strength: in its range.
        generator: of what is drawn at random, on the CPU.

    Returns:
        Whole grey levels ``[3, H, W]``, 0 to 255.
    """
    changed = SHIFTS[name].function(image / 255, strength, generator)
    return (changed * 255).round().clamp(0, 255)


def _gamma(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """A power of the brightness: above 1 darker, below 1 lighter."""
    return image**strength


def _contrast(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Distances to each channel's mean times a factor; what leaves the range is lost, as in an overexposed picture."""
    mean = image.mean(dim=(-2, -1), keepdim=True)
    return (image - mean) * strength + mean


def _blur(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Out of focus: a Gaussian whose standard deviation is so many percent of the image's height."""
    sigma = strength / 100 * image.shape[-2]
    return gaussian_blur(image, image.new_full((len(image),), sigma, dtype=torch.float64), reach(sigma))


def _noise(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Independent Gaussian noise; the strength is its standard deviation, as a part of the range."""
    return image + strength * torch.randn(image.shape, generator=generator).to(image)


def _colour_cast(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Warm light above 0, cold below: so much more of the first channel and less of the last."""
    gains = torch.tensor([1 + strength, 1.0, 1 - strength]).to(image)
    return image * gains[:, None, None]


def _illumination(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Light that falls off across the image, in a direction of its own, to one minus the strength."""
    angle = 2 * math.pi * float(torch.rand((), generator=generator))
    height, width = image.shape[-2:]
    rows = torch.linspace(-1, 1, height)[:, None] * math.sin(angle)
    columns = torch.linspace(-1, 1, width)[None, :] * math.cos(angle)
    across = (rows + columns) / (abs(math.sin(angle)) + abs(math.cos(angle)))  # -1 to 1
    return image * (1 - strength * (across + 1) / 2).to(image)


SHIFTS: dict[str, Shift] = {
    "gamma": Shift(_gamma, Range(0.1, 10), 1),
    "contrast": Shift(_contrast, Range(0.1, 10), 1),
    "blur": Shift(_blur, Range(0, 20), 0),
    "noise": Shift(_noise, Range(0, 1), 0),
    "colour_cast": Shift(_colour_cast, Range(-0.9, 0.9), 0),
    "illumination": Shift(_illumination, Range(0, 1), 0),
}
"""By name."""
