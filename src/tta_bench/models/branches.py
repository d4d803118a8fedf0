"""What auxiliary branches that rebuild an image share, as in the GraTa authors' network: no skip connections."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

TRUNK_CHANNELS = (256, 128, 64, 32)
"""Channels of the four upsampling blocks; 4 normalisation layers, 960 affine scalars."""


class UpsamplingBlock(nn.Module):
    """Twice the resolution: bilinear, 1x1 convolution, ReLU, normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=1)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` to ``[N, outputs, 2H, 2W]``."""
        return self.bn(F.relu(self.conv(upsample(x))))


def upsample(x: Tensor) -> Tensor:
    """Twice the resolution, bilinear with aligned corners."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class ImageBranch(nn.Module):
    """Rebuilds an image ``[N, 3, 32h, 32w]`` (as logits) from the bottleneck ``[N, C, h, w]``.

    Args:
        bottleneck_channels: ``C``.
        head: from the trunk's ``[N, 32, 32h, 32w]`` to the image; a 1x1 convolution if not given.
    """

    def __init__(self, bottleneck_channels: int, head: nn.Module | None = None) -> None:
        super().__init__()
        head = head or nn.Conv2d(TRUNK_CHANNELS[-1], 3, kernel_size=1)  # draws its weights before the trunk
        widths = (bottleneck_channels, *TRUNK_CHANNELS)
        self.trunk = nn.Sequential(*[UpsamplingBlock(a, b) for a, b in pairwise(widths)])
        self.head = head

    def forward(self, bottleneck: Tensor) -> Tensor:
        """Logits of the image."""
        return self.head(upsample(self.trunk(bottleneck)))
