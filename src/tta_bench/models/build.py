"""Build a segmentation network from its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tta_bench.models.segmentation import NETWORKS, SegmentationModel
from tta_bench.ops.preprocessing import PAPER, Preprocessing

if TYPE_CHECKING:
    from tta_bench.runtime.sections import PreprocessingConfig
    from tta_bench.schema import ModelConfig


def build_model(config: ModelConfig, classes: int, *, pretrained: bool = True) -> SegmentationModel:
    """Build the network.

    Args:
        config: architecture, encoder weights, preprocessing and branches.
        classes: sigmoid channels of the output.
        pretrained: False skips the encoder's downloaded weights, because a checkpoint will overwrite them.

    Raises:
        UserError: unknown network or encoder, or weights that cannot be downloaded.
    """
    network = NETWORKS.get(config.name).configured(config, classes, config.encoder_weights if pretrained else None)
    return network.expect(preprocessing_of(config.preprocessing))


def preprocessing_of(config: PreprocessingConfig | None) -> Preprocessing:
    """The preprocessing of a configuration; the paper's where it leaves that open."""
    return PAPER if config is None else Preprocessing(**config.model_dump())
