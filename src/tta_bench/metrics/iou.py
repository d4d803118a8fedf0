"""Overlap of a predicted and a true mask, in parts of the area that either covers."""

from __future__ import annotations

from torch import Tensor

from tta_bench.metrics.base import register_metric


@register_metric("iou", "%", higher_is_better=True)
def iou_score(prediction: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union (Jaccard index) in percent: ``100 (|P and G| + 1e-6) / (|P or G| + 1e-6)``.

    Empty masks score as they do in Dice: two of them 100, one practically 0.
    """
    area = (-2, -1)
    intersection, union = (prediction & truth).sum(dim=area), (prediction | truth).sum(dim=area)
    return 100 * (intersection.double() + 1e-6) / (union.double() + 1e-6)
