"""How far boundaries are apart on average."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from tta_bench.metrics.base import register_metric
from tta_bench.metrics.surfaces import surface_distances


@register_metric("assd", "px", direction="lower", range=(0, math.inf), of="surfaces")
def assd(prediction: Tensor, truth: Tensor, spacing: tuple[float, ...]) -> float:
    """Average symmetric surface distance: the mean over the boundary pixels of both masks together."""
    distances = surface_distances(prediction, truth, spacing)
    return math.nan if distances is None else float(np.concatenate(distances).mean())
