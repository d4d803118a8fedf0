"""What logits stand for: a sigmoid per class, for classes that may overlap, or a softmax over exclusive classes.

Logits ``[..., classes, H, W]`` are, per pixel, one Bernoulli distribution for each class or one categorical
distribution over all of them. What is computed of each distribution has the shape ``[..., distributions, H, W]``, with
one per class under a sigmoid and one in all under a softmax: a mean over it is a mean over distributions either way.
The softmax over the two logits ``(0, s)`` is the sigmoid of ``s``, in every function below.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Literal["sigmoid", "softmax"]

CLASSES = -3
"""The dimension of the classes."""


def probabilities(logits: Tensor, activation: Activation) -> Tensor:
    """Probability of every class: the shape of ``logits`` ``[..., classes, H, W]``, in [0, 1]."""
    return torch.softmax(logits, CLASSES) if activation == "softmax" else torch.sigmoid(logits)


def entropies(logits: Tensor, activation: Activation) -> Tensor:
    """Entropy of every distribution in nats, ``[..., distributions, H, W]``, stable for large logits.

    In [0, ln 2] under a sigmoid, in [0, ln classes] under a softmax.
    """
    if activation == "softmax":
        return cross_entropies(logits, torch.softmax(logits, CLASSES), activation)
    return F.softplus(logits) - logits * torch.sigmoid(logits)


def cross_entropies(logits: Tensor, target: Tensor, activation: Activation) -> Tensor:
    """Cross-entropy of every distribution against probabilities, ``[..., distributions, H, W]``, stable.

    Args:
        logits: ``[..., classes, H, W]``.
        target: probabilities of the same shape; under a softmax they sum to 1.
        activation: what the logits stand for.
    """
    if activation == "softmax":
        return -(target * torch.log_softmax(logits, CLASSES)).sum(CLASSES, keepdim=True)
    return F.softplus(logits) - logits * target


def most_entropy(classes: int, activation: Activation) -> float:
    """The largest that :func:`entropies` can be with this many classes."""
    return math.log(classes if activation == "softmax" else 2)
