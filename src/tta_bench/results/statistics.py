"""How sure a difference is: paired bootstrap over images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 9999


class Difference(NamedTuple):
    """A mean difference with its 95 % percentile interval, in the unit of the values (Dice points)."""

    mean: float
    low: float
    high: float


def paired_difference(differences: Sequence[Sequence[float]], seed: int = 0) -> Difference:
    """Mean of the per-target means of paired differences, and its bootstrap interval.

    Images are resampled within each target; targets count equally, as in the paper's averages.

    Args:
        differences: per target, one value per image: method minus reference on the same image.
        seed: of the resampling.

    Returns:
        The difference; with a single image per target there is nothing to resample and the interval is NaN.

    Raises:
        ValueError: no target, or a target without images.
    """
    samples = [np.asarray(values, dtype=float) for values in differences]
    if not samples or any(len(values) == 0 for values in samples):
        raise ValueError("every target needs at least one image")
    mean = float(np.mean([values.mean() for values in samples]))
    if any(len(values) < 2 for values in samples):
        return Difference(mean, float("nan"), float("nan"))

    def mean_of_means(*resampled: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.mean([values.mean(axis=axis) for values in resampled], axis=0)

    interval = bootstrap(
        tuple(samples),
        mean_of_means,
        n_resamples=RESAMPLES,
        batch=1000,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Difference(mean, float(interval.low), float(interval.high))
