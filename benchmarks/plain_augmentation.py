"""The strong view as published, in NumPy and SciPy, with the ranges of batchgenerators."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Image = NDArray[np.float32]


def strong_augmentation(image: Image) -> Image:
    """Strong view of ``[3, H, W]``: five operations, each with its probability, then min-max; the input is kept."""
    image = image.copy()
    if np.random.uniform() < 0.75:  # brightness
        for channel in image:
            channel *= np.random.uniform(0.5, 1.5)
    if np.random.uniform() < 0.75:  # contrast
        for channel in image:
            factor = _around_one(0.5, 1.5)
            mean, low, high = channel.mean(), channel.min(), channel.max()
            channel[:] = np.clip((channel - mean) * factor + mean, low, high)
    if np.random.uniform() < 0.75:  # gamma of the inverted image
        for channel in image:
            exponent = _around_one(0.5, 2.0)
            inverted = -channel
            low = inverted.min()
            span = inverted.max() - low
            channel[:] = -(np.power((inverted - low) / (span + 1e-7), exponent) * (span + 1e-7) + low)
    if np.random.uniform() < 0.5:  # noise
        image += np.random.normal(0.0, random.uniform(0, 0.05), size=image.shape)
    if np.random.uniform() < 0.5:  # blur
        for channel in image:
            if np.random.uniform() < 0.5:
                channel[:] = gaussian_filter(channel, random.uniform(0.5, 1.5))
    return (image - image.min()) / (image.max() - image.min())


def _around_one(low: float, high: float) -> float:
    """From below or above 1 with equal probability."""
    return np.random.uniform(low, 1) if np.random.uniform() < 0.5 else np.random.uniform(1, high)
