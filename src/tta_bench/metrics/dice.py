"""Overlap of a predicted and a true mask."""

from __future__ import annotations

import torch
from torch import Tensor


def dice_score(prediction: Tensor, truth: Tensor) -> Tensor:
    """Dice coefficient in percent: ``100 (2|P and G| + 1e-6) / (|P| + |G| + 1e-6)``.

    Two empty masks score 100, one empty mask practically 0, as in the GraTa authors' evaluation.

    Args:
        prediction: bool ``[..., H, W]``.
        truth: bool ``[..., H, W]``.

    Returns:
        float64 ``[...]``, each in [0, 100].

    Raises:
        ValueError: masks that are not boolean or differ in shape.
    """
    if prediction.dtype != torch.bool or truth.dtype != torch.bool:
        raise ValueError(f"masks must be bool, not {prediction.dtype} and {truth.dtype}")
    if prediction.shape != truth.shape:
        raise ValueError(f"shapes differ: {list(prediction.shape)} and {list(truth.shape)}")
    area = (-2, -1)
    intersection = (prediction & truth).sum(dim=area)  # bool sums to int64
    total = prediction.sum(dim=area) + truth.sum(dim=area)
    return 100 * (2 * intersection.double() + 1e-6) / (total.double() + 1e-6)
