"""How much of the true mask was found."""

from __future__ import annotations

import math

from torch import Tensor

from tta_bench.metrics.base import areas, register_metric


@register_metric("sensitivity", "%", direction="higher", range=(0, 100), title="sensitivity")
def sensitivity(prediction: Tensor, truth: Tensor) -> float:
    """Sensitivity (recall) in percent: ``100 |P and G| / |G|``."""
    _, true, both = areas(prediction, truth)
    return 100 * both / true if true else math.nan
