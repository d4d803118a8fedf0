"""What every stage draws with: cut normal numbers, band-limited noise and soft edges on the pixel grid."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def normal(rng: np.random.Generator, mean_sd: tuple[float, float]) -> float:
    """One number of a normal distribution ``(mean, sd)`` that is cut at two standard deviations."""
    mean, sd = mean_sd
    return mean + sd * float(np.clip(rng.standard_normal(), -2, 2))


def pixel_centres(size: int) -> Array:
    """Coordinates [size] of the pixels along one axis, fractions of the field."""
    return (np.arange(size) + 0.5) / size


@lru_cache(maxsize=64)
def _spline_weights(size: int, cells: int) -> Array:
    """Cubic B-spline weights [size, cells + 3] that take a lattice's knots to the pixel centres."""
    place = pixel_centres(size) * cells
    cell = np.floor(place).astype(int)
    t = place - cell
    taps = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    weights = np.zeros((size, cells + 3))
    np.put_along_axis(weights, cell[:, None] + np.arange(4), taps, axis=1)
    return weights


def texture(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Band-limited noise [size, size] with about unit variance and ``cells`` bumps across the field."""
    knots = rng.standard_normal((cells + 3, cells + 3))
    if 2 * cells > size:  # beyond what the image can resolve: its mean over a pixel
        return np.zeros((size, size))
    weights = _spline_weights(size, cells)
    # 0.479 is the mean of the squared taps per axis, hence the standard deviation in two.
    return weights @ knots @ weights.T / 0.479


def soft_step(value: Array, width: float | Array) -> Array:
    """1 well below 0, 0 well above, a smooth ramp of the given width between."""
    t = np.clip(0.5 - value / width, 0, 1)
    return t * t * (3 - 2 * t)
