"""A metric: how far the predicted area is from the true one."""

from __future__ import annotations

import torch
from torch import Tensor

from tta_bench import register_metric


@register_metric("areaerror", "%", higher_is_better=False)
def area_error(prediction: Tensor, truth: Tensor) -> Tensor:
    """Difference of the areas in percent of the true one; without a value (NaN) where nothing is there to be found."""
    predicted, true = (mask.sum(dim=(-2, -1)).double() for mask in (prediction, truth))
    return torch.where(true > 0, 100 * (predicted - true).abs() / true, torch.nan)
