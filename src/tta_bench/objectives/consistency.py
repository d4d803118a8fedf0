"""Consistency of a strong view with the mean prediction over weak views (Eq. 2 of the GraTa paper)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tta_bench.objectives.base import BoundNetwork, register_objective
from tta_bench.ops.draws import Draws
from tta_bench.ops.probabilities import cross_entropies, probabilities
from tta_bench.ops.views import (
    WEAK_VIEWS,
    StrongAugmentation,
    fitting_views,
    strong_draws,
    strong_views,
    undo_weak_views,
    weak_views,
)


@register_objective("consistency", stochastic=lambda strong_augmentation: strong_augmentation.is_random)
def consistency(
    network: BoundNetwork,
    images: Tensor,
    draws: Draws,
    *,
    strong_augmentation: StrongAugmentation,
    views: Sequence[str] = tuple(WEAK_VIEWS),
) -> Tensor:
    """Cross-entropy of the strong view's prediction against the pseudo-label: ``[S]``.

    Teacher and student are the same network with the same state; no gradient flows through the pseudo-label.

    Args:
        network: the network with its state.
        images: ``[S, 3, H, W]`` in [0, 1].
        draws: the strong view's random draws.
        strong_augmentation: operations of the strong view.
        views: weak views averaged in the pseudo-label, those of them that fit the images.
    """
    target = pseudo_label(network, images, views)
    numbers, noise = strong_draws(images, draws.generators("strong view"), strong_augmentation)
    (losses,) = network.replayable(_disagreement, images, target, numbers, noise, settings=strong_augmentation)
    return losses


def _disagreement(
    network: BoundNetwork,
    images: Tensor,
    target: Tensor,
    numbers: Tensor,
    noise: Tensor,
    *,
    settings: StrongAugmentation,
) -> tuple[Tensor]:
    strong = strong_views(images, numbers, noise, settings, network.network.preprocessing.back_in_range)
    return (cross_entropies(network(strong), target, network.activation).flatten(1).mean(1),)


@torch.no_grad()
def pseudo_label(network: BoundNetwork, images: Tensor, views: Sequence[str] = tuple(WEAK_VIEWS)) -> Tensor:
    """Mean of the probabilities over weak views, mapped back: ``[S, classes, H, W]`` in [0, 1]."""
    (target,) = network.replayable(_mean_of_views, images, views=fitting_views(images, views))
    return target


def _mean_of_views(network: BoundNetwork, images: Tensor, *, views: Sequence[str]) -> tuple[Tensor]:
    of_views = probabilities(network(weak_views(images, views)), network.activation)
    return (undo_weak_views(of_views, views).mean(dim=1),)
