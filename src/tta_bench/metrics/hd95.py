"""How far boundaries are apart where they are farthest, outliers left out."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from tta_bench.metrics.base import register_metric
from tta_bench.metrics.surfaces import surface_distances


@register_metric("hd95", "px", direction="lower", range=(0, math.inf), of="surfaces")
def hd95(prediction: Tensor, truth: Tensor, spacing: tuple[float, ...]) -> float:
    """Hausdorff distance of the boundaries, 95th percentile: the larger one of both directions."""
    distances = surface_distances(prediction, truth, spacing)
    return math.nan if distances is None else max(float(np.percentile(each, 95)) for each in distances)
