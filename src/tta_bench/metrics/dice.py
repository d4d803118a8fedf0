"""Overlap of a predicted and a true mask, in parts of the mean of their areas."""

from __future__ import annotations

from torch import Tensor

from tta_bench.metrics.base import areas, register_metric


@register_metric("dice", "%", direction="higher", range=(0, 100), title="Dice")
def dice_score(prediction: Tensor, truth: Tensor) -> float:
    """Dice coefficient in percent: ``100 (2|P and G| + 1e-6) / (|P| + |G| + 1e-6)``.

    Two empty masks score 100, one empty mask practically 0, as in the GraTa authors' evaluation.
    """
    predicted, true, both = areas(prediction, truth)
    return 100 * (2 * both + 1e-6) / (predicted + true + 1e-6)
