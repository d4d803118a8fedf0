"""Augmentation of source images: the one module that knows albumentations.

Operations and order follow batchgenerators in the script that trained the paper's models: elastic, rotation,
scaling, mirroring, brightness, noise; on grey levels, before the per-image min-max scaling.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import cv2
import numpy as np

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # before the import: it would look for updates on the network
import albumentations as A

if TYPE_CHECKING:
    from tta_bench.runtime.training_section import AugmentationConfig

# Mirrored borders in images and masks alike: every pixel keeps a true label, and no black corner takes part in
# the min-max scaling.
_BORDER = cv2.BORDER_REFLECT_101

_ELASTIC_WAVELENGTH = 1 / 12
"""Smoothing of the displacement field (standard deviation of the Gaussian), relative to the image's side."""

_ELASTIC_DISPLACEMENT = 0.015
"""Standard deviation of the displacement, relative to the image's side."""


class Augmentation:
    """Random geometry and brightness, reproducible per image.

    Args:
        config: probabilities and ranges.
        image_size: side of the square images, pixels.
        legacy_unaligned_mask: move the images only and leave the masks where they are, as in the authors'
            training script, whose masks were passed under a key that its transforms ignore.
    """

    def __init__(self, config: AugmentationConfig, image_size: int, legacy_unaligned_mask: bool = False) -> None:
        self.legacy_unaligned_mask = legacy_unaligned_mask
        sigma = _ELASTIC_WAVELENGTH * image_size
        # A field of uniform numbers in [-1, 1], smoothed by a Gaussian in two dimensions, has the standard
        # deviation 1 / (sqrt(3) * 2 * sqrt(pi) * sigma).
        alpha = _ELASTIC_DISPLACEMENT * image_size * 3**0.5 * 2 * np.pi**0.5 * sigma
        degrees = config.rotation_degrees
        low, high = config.noise_range
        self._compose = A.Compose(
            [
                A.ElasticTransform(
                    alpha=alpha,
                    sigma=sigma,
                    noise_distribution="uniform",
                    border_mode=_BORDER,
                    p=config.elastic,
                ),
                A.Affine(rotate=(-degrees, degrees), border_mode=_BORDER, p=config.affine),
                A.Affine(scale=config.scale, border_mode=_BORDER, p=config.affine),
                A.HorizontalFlip(p=config.flip),
                A.VerticalFlip(p=config.flip),
                # Saturates at 255, like an over-exposed photograph.
                A.MultiplicativeNoise(multiplier=config.brightness_range, per_channel=True, p=config.brightness),
                A.GaussNoise(std_range=(low / 255, high / 255), p=config.noise),
            ]
        )

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Augment one image and its mask together.

        Args:
            image: ``[size, size, 3]``, uint8 or float32 in grey levels of 0 to 255.
            mask: uint8 ``[size, size]``.
            seed: all that the random draws depend on.

        Returns:
            New arrays of the same shapes and types.
        """
        # Not set_random_seed: that gives every operation the same numbers, so that both flips always coincide.
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        deep = image.dtype != np.uint8
        image, moved = np.array(image), np.array(mask)
        if deep:  # the library takes floating point in [0, 1]
            image /= 255
        if self.legacy_unaligned_mask:
            result = {**self._compose(image=image), "mask": moved}
        else:
            result = self._compose(image=image, mask=moved)
        return 255 * result["image"] if deep else result["image"], result["mask"]
