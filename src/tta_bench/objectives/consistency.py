"""Consistency of a strong view with the mean prediction over weak views (Eq. 2 of the GraTa paper)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.objectives.base import BoundNetwork, register_objective
from tta_bench.ops.draws import Draws
from tta_bench.ops.views import WEAK_VIEWS, StrongAugmentation, strong_views, undo_weak_views, weak_views


@register_objective("consistency", stochastic=lambda strong_augmentation: strong_augmentation.is_random)
def consistency(
    network: BoundNetwork,
    images: Tensor,
    draws: Draws,
    *,
    strong_augmentation: StrongAugmentation | None = None,
    views: Sequence[str] = tuple(WEAK_VIEWS),
) -> Tensor:
    """Cross-entropy of the strong view's prediction against the pseudo-label: ``[S]``.

    Teacher and student are the same network with the same state; no gradient flows through the pseudo-label.

    Args:
        network: the network with its state.
        images: ``[S, 3, H, W]`` in [0, 1], square.
        draws: the strong view's random draws.
        strong_augmentation: operations of the strong view; None for the official ones.
        views: weak views averaged in the pseudo-label.
    """
    target = pseudo_label(network, images, views)
    settings, preprocessing = strong_augmentation or StrongAugmentation(), network.network.preprocessing
    strong = strong_views(images, draws.generators("strong view"), settings, preprocessing.back_in_range)
    return soft_cross_entropy(network(strong), target).flatten(1).mean(1)


@torch.no_grad()
def pseudo_label(network: BoundNetwork, images: Tensor, views: Sequence[str] = tuple(WEAK_VIEWS)) -> Tensor:
    """Mean of the probabilities over weak views, mapped back: ``[S, classes, H, W]`` in [0, 1]."""
    probabilities = torch.sigmoid(network(weak_views(images, views)))
    return undo_weak_views(probabilities, views).mean(dim=1)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of each logit against a probability, stable: ``softplus(s) - s q``."""
    return F.softplus(logits) - logits * target
