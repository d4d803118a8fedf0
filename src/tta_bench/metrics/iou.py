"""Overlap of a predicted and a true mask, in parts of the area that either covers."""

from __future__ import annotations

from torch import Tensor

from tta_bench.metrics.base import areas, register_metric


@register_metric("iou", "%", direction="higher", range=(0, 100), title="IoU")
def iou_score(prediction: Tensor, truth: Tensor) -> float:
    """Intersection over union (Jaccard index) in percent: ``100 (|P and G| + 1e-6) / (|P or G| + 1e-6)``.

    Empty masks score as they do in Dice: two of them 100, one practically 0.
    """
    predicted, true, both = areas(prediction, truth)
    return 100 * (both + 1e-6) / (predicted + true - both + 1e-6)
