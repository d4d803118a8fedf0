"""Super-resolution of the shrunk test image by an auxiliary branch (Table 5 of the GraTa paper)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from tta_bench.models.branches import TRUNK_CHANNELS, ImageBranch
from tta_bench.objectives.base import BoundNetwork, register_pretext_task
from tta_bench.objectives.reconstruction import error_of_branch, rebuilding_error
from tta_bench.ops.draws import Draws


def head(bottleneck_channels: int) -> ImageBranch:
    """A branch that returns twice the resolution of its input: it is fed the image at half size."""
    layers = nn.Sequential(
        nn.Conv2d(TRUNK_CHANNELS[-1], 32, kernel_size=5, padding=2),
        nn.Tanh(),
        nn.Conv2d(32, 32, kernel_size=3, padding=1),
        nn.Tanh(),
        nn.Conv2d(32, 12, kernel_size=3, padding=1),
        nn.PixelShuffle(2),
    )
    return ImageBranch(bottleneck_channels, layers)


def training_loss(branch: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean error of the images rebuilt from shrunk copies: a scalar."""
    return rebuilding_error(branch(shrink(images, 2)), images).mean()


@register_pretext_task("super_resolution", head=head, training_loss=training_loss, stochastic=False)
def super_resolution(network: BoundNetwork, images: Tensor, draws: Draws, *, super_resolution_factor: int) -> Tensor:
    """Error of the image rebuilt from a shrunk copy: ``[S]``, in [0, 1].

    Args:
        network: the network with its state; its source model has the branch ``super_resolution``.
        images: ``[S, 3, H, W]`` in [0, 1].
        draws: not used; part of every objective's signature.
        super_resolution_factor: see :func:`shrink`.
    """
    return error_of_branch(network, "super_resolution", shrink(images, super_resolution_factor), images)


def shrink(images: Tensor, factor: int) -> Tensor:
    """What the branch sees, ``[S, 3, H / 2, W / 2]``, since it doubles each side: bilinear with aligned corners.

    The paper's factor of four is, in the authors' code, one of the number of pixels: 2 per side. Read as 4 per
    side it leaves H / 4 x W / 4 pixels, which are then stretched to the size that the branch doubles.

    Args:
        images: ``[S, 3, H, W]``.
        factor: per side, at least 2.
    """
    small = F.interpolate(images, scale_factor=1 / factor, mode="bilinear", align_corners=True)
    half = (images.shape[-2] // 2, images.shape[-1] // 2)
    return small if small.shape[-2:] == half else F.interpolate(small, half, mode="bilinear", align_corners=True)
