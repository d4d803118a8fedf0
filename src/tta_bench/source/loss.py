"""The loss of source training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1.0
"""Pixels added to numerator and denominator of the soft Dice."""


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice loss.

    Args:
        logits: float ``[N, classes, H, W]``.
        labels: bool or float ``[N, classes, H, W]``.

    Returns:
        Scalar, at least 0.
    """
    labels = labels.to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, labels) + soft_dice_loss(torch.sigmoid(logits), labels)


def soft_dice_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """``1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1)``, pooled over batch and channels.

    Pooling, from the script that trained the paper's models, weighs images and classes by their area.
    """
    intersection = (probabilities * labels).sum()
    return 1 - (2 * intersection + SMOOTH) / (probabilities.sum() + labels.sum() + SMOOTH)
