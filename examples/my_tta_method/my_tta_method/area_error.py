"""A metric: how far the predicted area is from the true one."""

from __future__ import annotations

import math

from torch import Tensor

from tta_bench import register_metric


@register_metric("areaerror", "%", direction="lower", range=(0, math.inf), title="area error")
def area_error(prediction: Tensor, truth: Tensor) -> float:
    """Difference of the areas in percent of the true one; without a value (NaN) where nothing is there to be found."""
    predicted, true = prediction.sum().item(), truth.sum().item()
    return 100 * abs(predicted - true) / true if true else math.nan
