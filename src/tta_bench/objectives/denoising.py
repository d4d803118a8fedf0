"""Denoising of the test image by an auxiliary branch (Table 5 of the GraTa paper)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tta_bench.models.branches import ImageBranch
from tta_bench.objectives.base import BoundNetwork, register_pretext_task
from tta_bench.objectives.reconstruction import error_of_branch, rebuilding_error
from tta_bench.ops.draws import Draws, drawn
from tta_bench.runtime.transfer import sent

NOISE_STD = 0.1
"""Of the noise on the [0, 1] image in training; from the GraTa authors' code, the paper says standard normal (1.0)."""


def training_loss(branch: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean error of the images rebuilt from noisy copies: a scalar."""
    return rebuilding_error(branch(images + NOISE_STD * torch.randn_like(images)), images).mean()


@register_pretext_task(
    "denoising", head=ImageBranch, training_loss=training_loss, stochastic=lambda noise_std: noise_std > 0
)
def denoising(network: BoundNetwork, images: Tensor, draws: Draws, *, noise_std: float) -> Tensor:
    """Error of the image rebuilt from a noisy copy: ``[S]``, in [0, 1].

    Args:
        network: the network with its state; its source model has the branch ``denoising``.
        images: ``[S, 3, H, W]`` in [0, 1]; the noisy copy is neither clipped nor scaled back.
        draws: the noise.
        noise_std: standard deviation of the Gaussian noise.
    """
    noise = drawn(draws.generators("noise"), _noise, tuple(images.shape[1:]))
    noise = sent(noise, images.device).to(images.dtype)
    return error_of_branch(network, "denoising", images + noise_std * noise, images)


def _noise(generator: torch.Generator, shape: Sequence[int]) -> Tensor:
    return torch.randn(tuple(shape), generator=generator)
