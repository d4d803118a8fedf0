"""The skin type of a photograph by its individual typology angle (Bevan and Atapour-Abarghouei, DART 2022)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

SIDE, PATCH = 256, 20
CORNERS = ((230, 115), (5, 115), (115, 5), (115, 230), (216, 216), (216, 20), (20, 20), (20, 216))
"""First row and column of the patches along the border, where skin without a lesion is likely."""

TYPES = ((55.0, 1), (41.0, 2), (28.0, 3), (19.0, 4), (10.0, 5))
"""Angles above which the skin is of a Fitzpatrick type; 6 below all."""

_HAIR_SIZE, _HAIR_LEVEL = 17, 10
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _XYZ.sum(1)


def skin_type(image: NDArray[np.uint8]) -> int:
    """Fitzpatrick type, 1 (lightest) to 6, of an RGB photograph ``[h, w, 3]``: that of the lightest patch.

    Dark hair is painted over by its surroundings first.
    """
    square = without_hair(_square(image))
    patches = [square[row : row + PATCH, column : column + PATCH] for row, column in CORNERS]
    return fitzpatrick(max(angle(*_mean_lightness_and_yellow(patch)) for patch in patches))


def fitzpatrick(ita: float) -> int:
    """The type of an angle in degrees.

    >>> [fitzpatrick(ita) for ita in (55.01, 55, 41, 28, 19, 10)]
    [1, 2, 3, 4, 5, 6]
    """
    return next((skin for above, skin in TYPES if ita > above), 6)


def angle(lightness: float, yellow: float) -> float:
    """Individual typology angle in degrees of L and b of CIELAB."""
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.nan_to_num(np.float64(lightness - 50) / np.float64(yellow), posinf=np.inf, neginf=-np.inf)
    return float(np.degrees(np.arctan(slope)))


def lab(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """CIELAB ``[..., 3]`` under D65 of sRGB levels ``[..., 3]``."""
    levels = image / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    relative = linear @ _XYZ.T / _WHITE
    edge = 6 / 29
    x, y, z = np.moveaxis(np.where(relative > edge**3, np.cbrt(relative), relative / (3 * edge**2) + 4 / 29), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def without_hair(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Dark thin lines, found by a black-hat of a cross, take the colour of the closing over them."""
    cross = np.zeros((_HAIR_SIZE, _HAIR_SIZE), bool)
    cross[_HAIR_SIZE // 2], cross[:, _HAIR_SIZE // 2] = True, True
    grey = image @ np.array([0.299, 0.587, 0.114])
    hair = ndimage.grey_closing(grey, footprint=cross) - grey > _HAIR_LEVEL
    closed = np.stack([ndimage.grey_closing(image[..., k], footprint=cross) for k in range(3)], axis=-1)
    return np.where(hair[..., None], closed, image)


def _square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    middle = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(middle.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _mean_lightness_and_yellow(patch: NDArray[np.uint8]) -> tuple[float, float]:
    means = lab(patch).mean((0, 1))
    return float(means[0]), float(means[2])
