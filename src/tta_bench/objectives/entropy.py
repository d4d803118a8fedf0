"""Entropy of the prediction (TENT, ICLR 2021; Eq. 1 of the GraTa paper)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.objectives.base import BoundNetwork, register_objective
from tta_bench.ops.draws import Draws

EntropyForm = Literal["positive", "binary"]


@register_objective("entropy", stochastic=False)
def entropy(network: BoundNetwork, images: Tensor, draws: Draws, *, entropy_form: EntropyForm) -> Tensor:
    """Entropy of the logits of ``images`` ``[S, 3, H, W]``: ``[S]``.

    Args:
        network: the network with its state.
        images: in [0, 1].
        draws: not used; part of every objective's signature.
        entropy_form: ``positive`` as in the official code of GraTa, or ``binary``.
    """
    return mean_entropy(network(images), entropy_form)


def mean_entropy(logits: Tensor, entropy_form: EntropyForm) -> Tensor:
    """Entropy of logits ``[S, classes, H, W]``, the mean over pixels: ``[S]``.

    ``positive`` sums over the classes, ``binary`` averages over them.
    """
    per_pixel = positive_entropy(logits).sum(1) if entropy_form == "positive" else binary_entropy(logits)
    return per_pixel.flatten(1).mean(1)


def positive_entropy(logits: Tensor) -> Tensor:
    """``-p log(p + 1e-6)`` of each sigmoid: the official code's form, without the term of ``1 - p``.

    Its maximum 1/e lies at p = 1/e: pixels above are pushed to 1, pixels below to 0. The losses built on it sum
    over the channels and average over the pixels.
    """
    p = torch.sigmoid(logits)
    return -p * torch.log(p + 1e-6)


def binary_entropy(logits: Tensor) -> Tensor:
    """Bernoulli entropy of each sigmoid in nats, in [0, ln 2], stable for large logits."""
    return F.softplus(logits) - logits * torch.sigmoid(logits)
