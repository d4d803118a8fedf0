"""How far predicted probabilities are from frequencies."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from tta_bench.metrics.base import register_metric

BINS = 15


@register_metric("ece", "%", direction="lower", range=(0, 100), of="probabilities")
def expected_calibration_error(probability: Tensor, truth: Tensor) -> float:
    """Expected calibration error of a class over the pixels, in percent: 15 bins of equal width.

    The mean over all pixels of what their bin's mean probability differs from its fraction of true pixels.
    """
    values, labels = probability.double().flatten().cpu().numpy(), truth.double().flatten().cpu().numpy()
    places = np.minimum((values * BINS).astype(int), BINS - 1)
    sums = [np.bincount(places, weights=each, minlength=BINS) for each in (values, labels)]
    return 100 * float(np.abs(sums[0] - sums[1]).sum()) / len(values)
