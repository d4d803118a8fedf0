"""Means of targets and streams, and how sure they are: bootstrap, signed-rank test, correction for several methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES, BATCH = 9999, 1000


class Estimate(NamedTuple):
    """A mean with its 95 % interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def paired_difference(
    differences: Sequence[Sequence[float]], *, weights: Sequence[float] | None = None, seed: int = 0
) -> Estimate:
    """Mean of the per-target means of paired differences, and its bootstrap interval.

    Images are resampled within each target; targets count equally, as in the paper's averages, or by their weights.

    Args:
        differences: per target, one value per image: method minus reference on the same image.
        weights: of the targets, positive.
        seed: of the resampling.

    Returns:
        The difference; with a single image per target there is nothing to resample and the interval is NaN, as is all
        that is computed of NaN.

    Raises:
        ValueError: no target, or a target without images.
    """
    samples = _samples(differences)
    mean = float(np.average([values.mean() for values in samples], weights=weights))
    if np.isnan(mean) or any(len(values) < 2 for values in samples):
        return Estimate(mean, float("nan"), float("nan"))
    means = np.sort(_resampled_means(samples, weights, seed))
    tail = (1 - 0.95) / 2
    return Estimate(mean, _quantile(means, tail), _quantile(means, 1 - tail))


def _resampled_means(
    samples: Sequence[NDArray[np.float64]], weights: Sequence[float] | None, seed: int
) -> NDArray[np.float64]:
    """The mean of means of resampled images, ``[RESAMPLES]``.

    The draws are those of ``scipy.stats.bootstrap``, whose import takes longer than all that a finished cell needs.
    """
    rng = np.random.default_rng(seed)
    means = []
    for first in range(0, RESAMPLES, BATCH):
        count = min(BATCH, RESAMPLES - first)
        drawn = [values[rng.integers(0, len(values), (count, len(values)))].mean(axis=-1) for values in samples]
        means.append(np.average(drawn, axis=0, weights=weights))
    return np.concatenate(means)


def _quantile(ordered: NDArray[np.float64], share: float) -> float:
    """Between the two values beside it, rounded as scipy's (numpy's interpolates in another order)."""
    place = share * len(ordered) + (1 - share)
    part, below = place % 1, int(place) - 1
    return float((1 - part) * ordered[below] + part * ordered[below + 1])


def mean_of_targets(values: Sequence[ArrayLike]) -> Estimate:
    """Unweighted mean of the targets' means, with the normal 95 % interval of independent images.

    Args:
        values: per target, one value per image.

    Returns:
        The estimate; its interval is NaN where a target has a single image.

    Raises:
        ValueError: no target, or one without images.
    """
    samples = _samples(values)
    mean = float(np.mean([each.mean() for each in samples]))
    if any(len(each) < 2 for each in samples):
        return Estimate(mean, float("nan"), float("nan"))
    half = 1.96 * float(np.sqrt(sum(each.var(ddof=1) / len(each) for each in samples))) / len(samples)
    return Estimate(mean, mean - half, mean + half)


def _samples(targets: Sequence[ArrayLike]) -> list[NDArray[np.float64]]:
    """One array per target."""
    samples = [np.asarray(values, dtype=float) for values in targets]
    if not samples or any(len(values) == 0 for values in samples):
        raise ValueError("every target needs at least one image")
    return samples


def signed_rank_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of the Wilcoxon signed-rank test (Wilcoxon 1945) that paired differences are symmetric about 0.

    Zero differences are left out, as Wilcoxon did; small samples without ties are tested exactly.

    Args:
        differences: one finite value per image.

    Returns:
        In [0, 1]; 1 if no difference is left.
    """
    from scipy.stats import wilcoxon

    nonzero = np.asarray(differences, dtype=float)
    nonzero = nonzero[nonzero != 0]
    if len(nonzero) == 0:
        return 1.0
    return float(wilcoxon(nonzero, zero_method="wilcox", alternative="two-sided").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for testing several hypotheses (Holm 1979), in the given order.

    The k-th smallest of m, k from 0, is multiplied by m - k; the results never decrease and never exceed 1.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, factors * np.asarray(p_values)[order]))
    return [float(p) for p in corrected]


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); None for the latter of a single value.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("there is nothing to average")
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def running_mean(streams: Sequence[ArrayLike], positions: ArrayLike) -> NDArray[np.float64]:
    """Mean over streams of the mean of all images so far.

    A stream that has ended keeps its last value: the curve never moves because streams differ in length, and it ends
    at the unweighted mean over the streams, which is the number in the table.

    Args:
        streams: one value per image, in stream order; none is empty. Images without a value are passed over.
        positions: ``[points]``, where to look; 0 is the first image.

    Returns:
        ``[points]``.
    """
    curves = []
    for each in streams:
        values = np.asarray(each, dtype=float)
        known = np.isfinite(values)
        counts = np.cumsum(known)
        means = np.cumsum(np.where(known, values, 0)) / np.where(counts, counts, np.nan)
        curves.append(means[np.minimum(positions, len(values) - 1)])
    return np.asarray(np.mean(curves, axis=0))


def by_part(streams: Sequence[ArrayLike], parts: int) -> NDArray[np.float64]:
    """Median and spread along streams of any length, each cut into equal parts.

    Args:
        streams: one value per image, in stream order; NaN where an image has none.
        parts: into how many parts each stream is cut.

    Returns:
        ``[3, parts]``: median, 10th and 90th percentile of all streams' images in a part; NaN in a part without.
    """
    values = np.concatenate([np.asarray(each, dtype=float) for each in streams])
    part = np.concatenate([np.arange(len(each)) * parts // len(each) for each in map(np.asarray, streams)])
    pools = [values[np.isfinite(values) & (part == number)] for number in range(parts)]
    columns = [np.percentile(pool, (50, 10, 90)) if len(pool) else np.full(3, np.nan) for pool in pools]
    return np.stack(columns, axis=1)


class Reliability(NamedTuple):
    """How far an average over ``images`` images tells rows apart, all of the same length.

    Attributes:
        images: of all targets together, ascending; the last is all there are.
        widths: ``[rows, sizes]``: of the 95 % intervals of the rows' average differences.
        same_order: in [0, 1], share of the pairs of rows, the one compared with among them, that are in the order
            that all images give.
        same_best: in [0, 1], share of the draws whose best row is that of all images.
    """

    images: NDArray[np.int64]
    widths: NDArray[np.float64]
    same_order: NDArray[np.float64]
    same_best: NDArray[np.float64]


def reliability(
    differences: Sequence[NDArray[np.float64]], weights: NDArray[np.float64], *, draws: int = 1000, seed: int = 0
) -> Reliability:
    """Bootstrap of averages over fewer images, and of the order of rows by them.

    Of every target the same share of images is drawn with replacement, the same ones for all rows.

    Args:
        differences: per target ``[rows, images]``, every row minus one that all are compared with, at least two images.
        weights: ``[rows, targets]`` of the targets, positive.
        draws: per number of images.
        seed: of the drawing.

    Returns:
        Of up to ten numbers of images; the best row is the one of the largest difference.
    """
    rng = np.random.default_rng(seed)
    sizes = np.array([target.shape[1] for target in differences])
    shares = np.geomspace(2 / sizes.max(), 1, 10)
    drawn = np.unique(np.maximum(2, np.rint(shares[:, None] * sizes).astype(int)), axis=0)
    rows = len(weights)
    part = weights / weights.sum(axis=1, keepdims=True)
    whole = np.zeros(rows + 1)  # the last is the row compared with
    whole[:rows] = np.sum([each.mean(axis=1) * share for each, share in zip(differences, part.T, strict=True)], axis=0)
    first, second = np.triu_indices(rows + 1, 1)
    order = np.sign(whole[first] - whole[second])
    widths, same_order, same_best = [], [], []
    for numbers in drawn:
        averages = np.zeros((draws, rows + 1))
        for target, number, share in zip(differences, numbers, part.T, strict=True):
            counts = rng.multinomial(number, np.full(target.shape[1], 1 / target.shape[1]), size=draws)
            averages[:, :rows] += share * (counts @ target.T) / number
        low, high = np.percentile(averages[:, :rows], (2.5, 97.5), axis=0)
        widths.append(high - low)
        same_order.append(np.mean(np.sign(averages[:, first] - averages[:, second]) == order))
        same_best.append(np.mean(averages.argmax(axis=1) == whole.argmax()))
    return Reliability(drawn.sum(axis=1), np.stack(widths, axis=1), np.array(same_order), np.array(same_best))
