"""How much of the predicted mask is true."""

from __future__ import annotations

import math

from torch import Tensor

from tta_bench.metrics.base import areas, register_metric


@register_metric("precision", "%", direction="higher", range=(0, 100), title="precision")
def precision(prediction: Tensor, truth: Tensor) -> float:
    """Precision (positive predictive value) in percent: ``100 |P and G| / |P|``."""
    predicted, _, both = areas(prediction, truth)
    return 100 * both / predicted if predicted else math.nan
