"""Reconstruction of the test image by an auxiliary branch (Table 5 of the GraTa paper)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tta_bench.models.branches import ImageBranch
from tta_bench.objectives.base import BoundNetwork, register_pretext_task
from tta_bench.ops.draws import Draws


def training_loss(branch: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean error of the rebuilt images: a scalar."""
    return rebuilding_error(branch(images), images).mean()


@register_pretext_task("reconstruction", head=ImageBranch, training_loss=training_loss, stochastic=False)
def reconstruction(network: BoundNetwork, images: Tensor, draws: Draws) -> Tensor:
    """Error of the image rebuilt from the bottleneck: ``[S]``, in [0, 1].

    Args:
        network: the network with its state; its source model has the branch ``reconstruction``.
        images: ``[S, 3, H, W]`` in [0, 1].
        draws: not used; part of every objective's signature.
    """
    return error_of_branch(network, "reconstruction", images, images)


def error_of_branch(network: BoundNetwork, name: str, shown: Tensor, images: Tensor) -> Tensor:
    """:func:`rebuilding_error` of what a branch makes of what it is shown: ``[S]``."""
    (errors,) = network.replayable(_error_of_branch, shown, images, name=name)
    return errors


def _error_of_branch(network: BoundNetwork, shown: Tensor, images: Tensor, *, name: str) -> tuple[Tensor]:
    return (rebuilding_error(network.branch(name, shown), images),)


def rebuilding_error(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared error of ``sigmoid(logits)`` against ``images``, both ``[S, 3, H, W]``: ``[S]``."""
    return (torch.sigmoid(logits) - images).square().flatten(1).mean(1)
