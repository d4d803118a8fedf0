"""What logits stand for: a sigmoid per class, for classes that may overlap, or a softmax over exclusive classes.

Logits ``[..., classes, H, W]`` are, per pixel, one Bernoulli distribution for each class or one categorical
distribution over all of them. What is computed of each distribution has the shape ``[..., distributions, H, W]``, with
one per class under a sigmoid and one in all under a softmax: a mean over it is a mean over distributions either way.
The softmax over the two logits ``(0, s)`` is the sigmoid of ``s``, in every function below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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


def divergences(logits: Tensor, others: Tensor, activation: Activation) -> Tensor:
    """Kullback-Leibler divergence of every distribution of ``others`` from that of ``logits``, in nats, at least 0.

    That is the expectation under ``logits``; gradients flow into both. Shapes as of :func:`cross_entropies`.
    """
    return cross_entropies(others, probabilities(logits, activation), activation) - entropies(logits, activation)


def targets(labels: Tensor, activation: Activation) -> Tensor:
    """What every logit is to be, bool ``[..., channels, H, W]``, from bool labels ``[..., classes, H, W]``.

    Under a softmax the first channel is the background, where none of the classes is; they exclude each other.
    """
    if activation == "softmax":
        return torch.cat([~labels.any(CLASSES, keepdim=True), labels], CLASSES)
    return labels


def masks(logits: Tensor, activation: Activation, threshold: float) -> Tensor:
    """The pixels of every class, bool ``[..., classes, H, W]``, from logits as :func:`targets` orders them.

    Under a softmax those where it is the most probable one, the background included: no pixel has two classes.

    Args:
        logits: ``[..., channels, H, W]``.
        activation: what they stand for.
        threshold: probability from which a pixel belongs to a class, under a sigmoid.
    """
    if activation == "softmax":
        classes = torch.arange(1, logits.shape[CLASSES], device=logits.device)[:, None, None]
        return logits.argmax(CLASSES, keepdim=True) == classes
    return torch.sigmoid(logits) >= threshold


def log_odds(logits: Tensor, activation: Activation) -> Tensor:
    """Logarithm of the odds of every class against all else, ``[..., classes, H, W]``; its sigmoid is the probability.

    Under a sigmoid these are the logits; under a softmax those of the background, the first channel, are left out.
    """
    if activation == "sigmoid":
        return logits
    channels = logits.shape[CLASSES]
    odds = []
    for one in range(1, channels):
        others = [logits.narrow(CLASSES, 0, one), logits.narrow(CLASSES, one + 1, channels - one - 1)]
        odds.append(logits.select(CLASSES, one) - torch.cat(others, CLASSES).logsumexp(CLASSES))
    return torch.stack(odds, CLASSES)


def logit_of_mixture(logits: Sequence[Tensor], weights: Sequence[float], activation: Activation = "sigmoid") -> Tensor:
    """Logits of ``sum of weight * probabilities`` for weights that sum to 1.

    Finite also where the probabilities themselves round to 0 or 1.
    """

    def log_probability(log_probabilities: Callable[[Tensor], Tensor]) -> Tensor:
        terms = [log_probabilities(z) + math.log(w) for z, w in zip(logits, weights, strict=True) if w > 0]
        return torch.logsumexp(torch.stack(terms), dim=0)

    if activation == "softmax":
        return log_probability(lambda z: F.log_softmax(z, CLASSES))
    return log_probability(F.logsigmoid) - log_probability(lambda z: F.logsigmoid(-z))


def most_entropy(classes: int, activation: Activation) -> float:
    """The largest that :func:`entropies` can be with this many classes."""
    return math.log(classes if activation == "softmax" else 2)
