"""What a source model expects of its images."""

from __future__ import annotations

import torch
from torch import Tensor


def min_max(image: Tensor) -> Tensor:
    """Scale each image of ``[..., 3, H, W]`` to [0, 1] over all its channels and pixels jointly.

    This is the preprocessing of the paper's models. A constant image becomes zero.
    """
    low = image.amin(dim=(-3, -2, -1), keepdim=True)
    span = image.amax(dim=(-3, -2, -1), keepdim=True) - low
    return (image - low) / torch.where(span > 0, span, torch.ones_like(span))
