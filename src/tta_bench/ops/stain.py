"""Colours of stains: an image by its haematoxylin, eosin and DAB, and copies in slightly other colours."""

from __future__ import annotations

import torch
from torch import Tensor

from tta_bench.runtime.transfer import sent

STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density in red, green and blue of a unit of haematoxylin, eosin and DAB (Ruifrok and Johnston 2001)."""

LEAST = 1e-6
"""The least transmitted light, for a black pixel has no finite density."""

STRENGTH = 0.05
"""Largest relative and absolute change of a stain ("HED-light")."""

TISSUE = (0.15, 0.85)
"""Stains of images with a mean between these are changed; others are nearly black or white."""

BRIGHTNESS, CONTRAST = 0.35, 0.5
"""Largest relative changes."""

DRAWS = 8
"""Uniform numbers that a copy takes: three factors and three terms of the stains, brightness, contrast."""


def hed_of(images: Tensor) -> Tensor:
    """Amounts of the three stains ``[N, 3, H, W]`` in images of red, green and blue in [0, 1]."""
    return _mixed(-images.clamp(min=LEAST).log10(), _stains(images).inverse())


def rgb_of(stains: Tensor) -> Tensor:
    """Inverse of :func:`hed_of`, where no pixel is black."""
    return torch.pow(10, -_mixed(stains, _stains(stains)))


def _mixed(values: Tensor, matrix: Tensor) -> Tensor:
    """The rows of a matrix, weighted by ``values`` ``[N, 3, H, W]``; of each image on its own, to the last bit."""
    return (values[:, :, None] * matrix[:, :, None, None]).sum(1)


def _stains(like: Tensor) -> Tensor:
    stains = sent(torch.tensor(STAINS, dtype=like.dtype), like.device)
    return stains / stains.norm(dim=1, keepdim=True)


def recoloured(images: Tensor, uniform: Tensor) -> Tensor:
    """Copies with other stains, brightness and contrast; of images of one channel with other brightness and contrast.

    Args:
        images: ``[N, C, H, W]`` in [0, 1].
        uniform: ``[N, DRAWS]`` in [0, 1]; where all are 1/2, the copy is the image.
    """
    signs = (2 * sent(uniform, images.device).to(images) - 1)[:, :, None, None]
    copies = images
    if images.shape[1] == 3:
        stains = hed_of(images)
        changed = rgb_of(stains * (1 + STRENGTH * signs[:, :3]) + STRENGTH * signs[:, 3:6])
        mean = images.mean((1, 2, 3), keepdim=True)
        copies = torch.where((mean > TISSUE[0]) & (mean < TISSUE[1]), changed, images)
    copies = copies * (1 + BRIGHTNESS * signs[:, 6:7])
    mean = copies.mean((1, 2, 3), keepdim=True)
    return (mean + (copies - mean) * (1 + CONTRAST * signs[:, 7:8])).clamp(0, 1)
