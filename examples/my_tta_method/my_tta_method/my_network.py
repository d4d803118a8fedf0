"""A network: a U-Net of one width."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_bench import register_network
from tta_bench.errors import UserError
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.schema import ModelConfig


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())


@register_network("my_network")
class MyNetwork(SegmentationModel):
    """A U-Net of nine blocks, all of the same width."""

    def __init__(self, width: int, classes: int, branches: tuple[str, ...]) -> None:
        super().__init__(width, branches)
        self.down = nn.ModuleList(block(width if level else 3, width, stride=2) for level in range(5))
        self.up = nn.ModuleList(block(2 * width, width) for _ in range(4))
        self.head = nn.Conv2d(width, classes, 1)

    @classmethod
    def configured(cls, config: ModelConfig, classes: int, encoder_weights: str | None) -> Self:
        """With ``model.options.width`` channels."""
        return cls(config.options["width"], classes, config.branches)

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """The width is all there is to choose."""
        width = config.options.get("width")
        if not isinstance(width, int) or width < 1:
            raise UserError(f"model.options.width={width}: give a whole number, at least 1")

    def encode(self, images: Tensor) -> list[Tensor]:
        """Features at 1/2 to 1/32 of the input."""
        features = [images]
        for down in self.down:
            features.append(down(features[-1]))
        return features[1:]

    def decode(self, features: list[Tensor]) -> Tensor:
        """The deepest features, doubled in size and joined with the next finer ones again and again."""
        x = features[-1]
        for up, finer in zip(self.up, features[-2::-1], strict=True):
            x = up(torch.cat([F.interpolate(x, scale_factor=2), finer], dim=1))
        return F.interpolate(x, scale_factor=2)

    def classify(self, head_input: Tensor) -> Tensor:
        """Logits at the resolution of the input."""
        return self.head(head_input)
