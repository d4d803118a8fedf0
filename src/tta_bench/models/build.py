"""Build a segmentation network from its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tta_bench.models.segmentation import NETWORKS, SegmentationModel
from tta_bench.ops.probabilities import Activation

if TYPE_CHECKING:
    from tta_bench.schema import ModelConfig


def build_model(
    config: ModelConfig, classes: int, *, activation: Activation = "sigmoid", pretrained: bool = True
) -> SegmentationModel:
    """Build the network.

    Args:
        config: architecture, encoder weights and branches.
        classes: channels of the output; under a softmax the background's comes first, beside them.
        activation: what the logits stand for.
        pretrained: False skips the encoder's downloaded weights, because a checkpoint will overwrite them.

    Raises:
        UserError: unknown network or encoder, or weights that cannot be downloaded.
    """
    channels = classes + (activation == "softmax")
    model = NETWORKS.get(config.name).configured(config, channels, config.encoder_weights if pretrained else None)
    model.activation = activation
    return model
