"""Overlap of a predicted and a true mask, in parts of the mean of their areas."""

from __future__ import annotations

from torch import Tensor

from tta_bench.metrics.base import pixels, register_metric


@register_metric("dice", "%", direction="higher", range=(0, 100), title="Dice")
def dice_score(prediction: Tensor, truth: Tensor) -> float:
    """Dice coefficient in percent: ``100 (2|P and G| + 1e-6) / (|P| + |G| + 1e-6)``.

    Two empty masks score 100, one empty mask practically 0, as in the GraTa authors' evaluation.
    """
    return 100 * (2 * pixels(prediction & truth) + 1e-6) / (pixels(prediction) + pixels(truth) + 1e-6)
