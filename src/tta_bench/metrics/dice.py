"""Overlap of a predicted and a true mask, in parts of the mean of their areas."""

from __future__ import annotations

from torch import Tensor

from tta_bench.metrics.base import register_metric


@register_metric("dice", "%", higher_is_better=True)
def dice_score(prediction: Tensor, truth: Tensor) -> Tensor:
    """Dice coefficient in percent: ``100 (2|P and G| + 1e-6) / (|P| + |G| + 1e-6)``.

    Two empty masks score 100, one empty mask practically 0, as in the GraTa authors' evaluation.
    """
    area = (-2, -1)
    intersection = (prediction & truth).sum(dim=area)  # bool sums to int64
    total = prediction.sum(dim=area) + truth.sum(dim=area)
    return 100 * (2 * intersection.double() + 1e-6) / (total.double() + 1e-6)
