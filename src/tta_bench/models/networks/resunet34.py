"""The paper's ResUNet-34: a ResNet-34 encoder and a U-Net decoder with normalisation after each ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from tta_bench.models.encoder import build_encoder, check_encoder_section
from tta_bench.models.frozen import FrozenConv2d, FrozenConvTranspose2d, double, upsampled
from tta_bench.models.normalisation_layer import normalised
from tta_bench.models.segmentation import SegmentationModel, register_network

if TYPE_CHECKING:
    from tta_bench.schema import ModelConfig


class DecoderBlock(nn.Module):
    """Joins the upsampled deeper features with a skip connection: 128 + 128 channels, ReLU, then BatchNorm."""

    def __init__(self, inputs: int, skip: int) -> None:
        super().__init__()
        self.tr_conv = nn.ConvTranspose2d(inputs, 128, kernel_size=2, stride=2)
        self.x_conv = nn.Conv2d(skip, 128, kernel_size=1)
        self.bn = nn.BatchNorm2d(256)

    def forward(self, deeper: Tensor, skip: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` and ``[N, skip, 2H, 2W]`` to ``[N, 256, 2H, 2W]``."""
        if isinstance(self.tr_conv, FrozenConvTranspose2d) and isinstance(self.x_conv, FrozenConv2d):
            joined, shift = upsampled(self.tr_conv, deeper, (self.x_conv, skip))
            return normalised(self.bn, joined, shift=shift, rectified_before=True)
        joined = torch.cat([double(self.tr_conv, deeper), self.x_conv(skip)], dim=1)
        return normalised(self.bn, joined, rectified_before=True)


@register_network("resunet34")
class ResUNet(SegmentationModel):
    """ResUNet-34 as published with GraTa (AAAI 2025).

    41 normalisation layers with 19,136 affine scalars on the segmentation path; 53 and 22,016 with the three
    image branches.

    Args:
        classes: channels of the output.
        encoder_weights: ``"imagenet"`` or None for random weights.
        branches: auxiliary branches, see :class:`SegmentationModel`.
    """

    def __init__(self, classes: int, encoder_weights: str | None = None, branches: Sequence[str] = ()) -> None:
        super().__init__(bottleneck_channels=512, branches=branches)
        self.encoder = build_encoder("resnet34", encoder_weights)
        self.up1 = DecoderBlock(512, 256)
        self.up2 = DecoderBlock(256, 128)
        self.up3 = DecoderBlock(256, 64)
        self.up4 = DecoderBlock(256, 64)
        self.up5 = nn.ConvTranspose2d(256, 32, kernel_size=2, stride=2)
        self.bnout = nn.BatchNorm2d(32)
        self.seg_head = nn.Conv2d(32, classes, kernel_size=1)

    @classmethod
    def configured(cls, config: ModelConfig, classes: int, encoder_weights: str | None) -> Self:
        """See :class:`SegmentationModel`; the encoder and the decoder's widths are always the same."""
        return cls(classes, encoder_weights, config.branches)

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """See :class:`SegmentationModel`."""
        check_encoder_section(config)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Features at 1/2 (64 channels), 1/4 (64), 1/8 (128), 1/16 (256) and 1/32 (512) of the input."""
        return self.encoder(images)[1:]

    def decode(self, features: list[Tensor]) -> Tensor:
        """Input of the classifier: ``[N, 32, H, W]``, non-negative."""
        half, quarter, eighth, sixteenth, bottleneck = features
        x = self.up1(bottleneck, sixteenth)
        x = self.up2(x, eighth)
        x = self.up3(x, quarter)
        x = self.up4(x, half)
        if isinstance(self.up5, FrozenConvTranspose2d):
            doubled, shift = upsampled(self.up5, x)
            return normalised(self.bnout, doubled, shift=shift, rectified_after=True)
        return normalised(self.bnout, double(self.up5, x), rectified_after=True)

    def classify(self, head_input: Tensor) -> Tensor:
        """Logits ``[N, classes, H, W]``."""
        return self.seg_head(head_input)
