"""Entropy of the prediction (TENT, ICLR 2021; Eq. 1 of the GraTa paper)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.objectives.base import BoundNetwork, register_objective
from tta_bench.ops.draws import Draws
from tta_bench.ops.probabilities import Activation, entropies

EntropyForm = Literal["positive", "binary"]


@register_objective("entropy", stochastic=False)
def entropy(network: BoundNetwork, images: Tensor, draws: Draws, *, entropy_form: EntropyForm) -> Tensor:
    """Entropy of the logits of ``images`` ``[S, 3, H, W]``: ``[S]``.

    Args:
        network: the network with its state.
        images: in [0, 1].
        draws: not used; part of every objective's signature.
        entropy_form: see :func:`mean_entropy`.
    """
    (losses,) = network.replayable(_of_prediction, images, entropy_form=entropy_form)
    return losses


def _of_prediction(network: BoundNetwork, images: Tensor, *, entropy_form: EntropyForm) -> tuple[Tensor]:
    return (mean_entropy(network(images), entropy_form, network.activation),)


def mean_entropy(logits: Tensor, entropy_form: EntropyForm, activation: Activation) -> Tensor:
    """Entropy of logits ``[S, classes, H, W]``, the mean over pixels: ``[S]``.

    Args:
        logits: of the network.
        entropy_form: ``positive`` sums ``-p log p`` over the classes: of a softmax that is the entropy, of sigmoids
            the official code's form. ``binary``, of sigmoids alone, averages their entropies over the classes.
        activation: what the logits stand for.

    Raises:
        UserError: ``binary`` for a softmax.
    """
    check_form(entropy_form, activation)
    if activation == "sigmoid" and entropy_form == "positive":
        return positive_entropy(logits).sum(1).flatten(1).mean(1)
    return entropies(logits, activation).flatten(1).mean(1)


def check_form(entropy_form: EntropyForm, activation: Activation) -> None:
    """Refuse a form that the activation does not have.

    Raises:
        UserError: ``binary`` for a softmax.
    """
    if activation == "softmax" and entropy_form == "binary":
        raise UserError(
            "entropy_form=binary takes every class on its own, and the classes of this network exclude each other "
            "(softmax): leave entropy_form at positive, the sum of -p log p over the classes"
        )


def positive_entropy(logits: Tensor) -> Tensor:
    """``-p log(p + 1e-6)`` of each sigmoid: the official code's form, without the term of ``1 - p``.

    Its maximum 1/e lies at p = 1/e: pixels above are pushed to 1, pixels below to 0. The losses built on it sum
    over the channels and average over the pixels.
    """
    p = torch.sigmoid(logits)
    return -p * torch.log(p + 1e-6)
