"""Auxiliary branches on the bottleneck, as in the GraTa authors' network: no skip connections.

Three of them rebuild an image through the same trunk; the fourth classifies the transform of the input.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

TRUNK_CHANNELS = (256, 128, 64, 32)
"""Channels of the four upsampling blocks; 4 normalisation layers, 960 affine scalars."""

TRANSFORMS = 6
"""Classes of the rotation branch: two flips, three rotations, identity."""


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
    """Rebuilds an image ``[N, 3, 32h, 32w]`` (as logits) from the bottleneck ``[N, C, h, w]``."""

    def __init__(self, bottleneck_channels: int, head: nn.Module) -> None:
        super().__init__()
        widths = (bottleneck_channels, *TRUNK_CHANNELS)
        self.trunk = nn.Sequential(*[UpsamplingBlock(a, b) for a, b in pairwise(widths)])
        self.head = head

    def forward(self, bottleneck: Tensor) -> Tensor:
        """Logits of the image."""
        return self.head(upsample(self.trunk(bottleneck)))


def build_branch(name: str, bottleneck_channels: int) -> nn.Module:
    """Build a branch by name.

    The super-resolution branch returns twice the resolution of its input: it is fed the image at half size.
    """
    width = TRUNK_CHANNELS[-1]
    if name in ("reconstruction", "denoising"):
        return ImageBranch(bottleneck_channels, nn.Conv2d(width, 3, kernel_size=1))
    if name == "super_resolution":
        head = nn.Sequential(
            nn.Conv2d(width, 32, kernel_size=5, padding=2),
            nn.Tanh(),
            nn.Conv2d(32, 32, kernel_size=3, padding=1),
            nn.Tanh(),
            nn.Conv2d(32, 12, kernel_size=3, padding=1),
            nn.PixelShuffle(2),
        )
        return ImageBranch(bottleneck_channels, head)
    layers: list[tuple[str, nn.Module]] = [
        ("pool", nn.AdaptiveAvgPool2d(1)),
        ("flatten", nn.Flatten()),
        ("linear1", nn.Linear(bottleneck_channels, 256)),
        ("activation1", nn.LeakyReLU(0.2)),
        ("linear2", nn.Linear(256, 64)),
        ("activation2", nn.LeakyReLU(0.2)),
        ("linear3", nn.Linear(64, TRANSFORMS)),
    ]
    return nn.Sequential(OrderedDict(layers))
