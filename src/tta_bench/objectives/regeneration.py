"""Regeneration of the image from a recoloured copy by an auxiliary branch (Stain-AgLr, Raipuria et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tta_bench.models.branches import ImageBranch
from tta_bench.objectives.base import BoundNetwork, register_pretext_task
from tta_bench.objectives.reconstruction import error_of_branch, rebuilding_error
from tta_bench.ops.draws import Draws
from tta_bench.ops.stain import DRAWS, recoloured


def training_loss(branch: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean error of the images rebuilt from recoloured copies: a scalar."""
    return rebuilding_error(branch(recoloured(images, torch.rand(len(images), DRAWS))), images).mean()


@register_pretext_task("regeneration", head=ImageBranch, training_loss=training_loss)
def regeneration(network: BoundNetwork, images: Tensor, draws: Draws) -> Tensor:
    """Error of the image rebuilt from a recoloured copy: ``[S]``, in [0, 1].

    Args:
        network: the network with its state; its source model has the branch ``regeneration``.
        images: ``[S, 3, H, W]`` in [0, 1].
        draws: the colours.
    """
    uniform = torch.stack([torch.rand(DRAWS, generator=generator) for generator in draws.generators("colours")])
    return error_of_branch(network, "regeneration", recoloured(images, uniform), images)
