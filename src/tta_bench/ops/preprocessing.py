"""What a source model expects of its images: their size and the range of their values."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor


def resize_image(image: np.ndarray, size: int) -> np.ndarray:
    """Bring an RGB image to the square network input; the aspect ratio is not kept, as in the paper.

    Args:
        image: uint8 ``[height, width, 3]``.
        size: side in pixels.

    Returns:
        uint8 ``[size, size, 3]``, by Pillow's bicubic filter.
    """
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """As :func:`resize_image` for mask values ``[height, width]``, each pixel the nearest value."""
    return np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))


def min_max(image: Tensor) -> Tensor:
    """Scale each image of ``[..., 3, H, W]`` to [0, 1] over all its channels and pixels jointly.

    This is the preprocessing of the paper's models. A constant image becomes zero.
    """
    low = image.amin(dim=(-3, -2, -1), keepdim=True)
    span = image.amax(dim=(-3, -2, -1), keepdim=True) - low
    return (image - low) / span.masked_fill(span == 0, 1)
