"""How much of the boundaries is where it should be, within a tolerance."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from tta_bench.metrics.base import register_metric
from tta_bench.metrics.surfaces import surface_distances

TOLERANCE = 2.0
"""Pixels, or millimetres where the spacing is in millimetres."""


@register_metric("surfacedice", "%", direction="higher", range=(0, 100), of="surfaces", title="surface Dice")
def surface_dice(prediction: Tensor, truth: Tensor, spacing: tuple[float, ...]) -> float:
    """Surface Dice in percent: boundary pixels of both masks at most 2 px from the other's boundary."""
    distances = surface_distances(prediction, truth, spacing)
    return math.nan if distances is None else 100 * float((np.concatenate(distances) <= TOLERANCE).mean())
