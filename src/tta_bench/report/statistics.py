"""How sure a difference is: paired bootstrap and signed-rank test over images, corrected for several methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, wilcoxon

RESAMPLES = 9999


class Difference(NamedTuple):
    """A mean difference with its 95 % percentile interval, in the unit of the values (Dice points)."""

    mean: float
    low: float
    high: float


def paired_difference(
    differences: Sequence[Sequence[float]], *, weights: Sequence[float] | None = None, seed: int = 0
) -> Difference:
    """Mean of the per-target means of paired differences, and its bootstrap interval.

    Images are resampled within each target; targets count equally, as in the paper's averages, or by their weights.

    Args:
        differences: per target, one value per image: method minus reference on the same image.
        weights: of the targets, positive.
        seed: of the resampling.

    Returns:
        The difference; with a single image per target there is nothing to resample and the interval is NaN.

    Raises:
        ValueError: no target, or a target without images.
    """
    samples = [np.asarray(values, dtype=float) for values in differences]
    if not samples or any(len(values) == 0 for values in samples):
        raise ValueError("every target needs at least one image")
    mean = float(np.average([values.mean() for values in samples], weights=weights))
    if any(len(values) < 2 for values in samples):
        return Difference(mean, float("nan"), float("nan"))

    def mean_of_means(*resampled: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.average([values.mean(axis=axis) for values in resampled], axis=0, weights=weights)

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


def signed_rank_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of the Wilcoxon signed-rank test (Wilcoxon 1945) that paired differences are symmetric about 0.

    Zero differences are left out, as Wilcoxon did; small samples without ties are tested exactly.

    Args:
        differences: one finite value per image.

    Returns:
        In [0, 1]; 1 if no difference is left.
    """
    nonzero = np.asarray(differences, dtype=float)
    nonzero = nonzero[nonzero != 0]
    if len(nonzero) == 0:
        return 1.0
    return float(wilcoxon(nonzero, zero_method="wilcox", alternative="two-sided").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for testing several hypotheses (Holm 1979), in the given order.

    The k-th smallest of m, k from 0, is multiplied by m - k; the results never decrease and never exceed 1.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); None for the latter of a single value.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("there is nothing to average")
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
