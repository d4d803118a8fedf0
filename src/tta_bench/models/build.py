"""Build a segmentation network from its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tta_bench.models.segmentation import NETWORKS, SegmentationModel

if TYPE_CHECKING:
    from tta_bench.schema import ModelConfig


def build_model(config: ModelConfig, classes: int, *, pretrained: bool = True) -> SegmentationModel:
    """Build the network.

    Args:
        config: architecture, encoder weights and branches.
        classes: sigmoid channels of the output.
        pretrained: False skips the encoder's downloaded weights, because a checkpoint will overwrite them.

    Raises:
        UserError: unknown network or encoder, or weights that cannot be downloaded.
    """
    return NETWORKS.get(config.name).configured(config, classes, config.encoder_weights if pretrained else None)
