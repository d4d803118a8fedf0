"""Overlap of a predicted and a true mask, in parts of the mean of their areas."""

from __future__ import annotations

from torch import Tensor

from tta_bench.metrics.base import register_metric


@register_metric("dice", "%", direction="higher", range=(0, 100), title="Dice")
def dice_score(prediction: Tensor, truth: Tensor) -> float:
    """Dice coefficient in percent: ``100 (2|P and G| + 1e-6) / (|P| + |G| + 1e-6)``.

    Two empty masks score 100, one empty mask practically 0, as in the GraTa authors' evaluation.
    """
    intersection = (prediction & truth).sum().item()  # bool sums to int64
    total = (prediction.sum() + truth.sum()).item()
    return 100 * (2 * float(intersection) + 1e-6) / (float(total) + 1e-6)
