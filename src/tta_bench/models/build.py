"""Build a segmentation network from its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tta_bench.models.resunet import ResUNet
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.models.unet import DECODER_CHANNELS, UNet

if TYPE_CHECKING:
    from tta_bench.schema import ModelConfig


def build_model(config: ModelConfig, classes: int, *, pretrained: bool = True) -> SegmentationModel:
    """Build the network.

    Args:
        config: architecture, encoder weights and branches.
        classes: sigmoid channels of the output.
        pretrained: False skips the encoder's downloaded weights, because a checkpoint will overwrite them.

    Raises:
        UserError: unknown encoder, or weights that cannot be downloaded.
    """
    weights = config.encoder_weights if pretrained else None
    if config.name == "resunet34":
        return ResUNet(classes, weights, config.branches)
    return UNet(config.encoder, classes, weights, config.decoder_channels or DECODER_CHANNELS, config.branches)
