"""Build a segmentation network from its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from tta_bench.errors import UserError, nearest
from tta_bench.models.segmentation import NETWORKS, SegmentationModel
from tta_bench.ops.preprocessing import PAPER, Preprocessing
from tta_bench.ops.probabilities import Activation
from tta_bench.runtime.paths import CONFIG_DIR

if TYPE_CHECKING:
    from tta_bench.runtime.sections import PreprocessingConfig
    from tta_bench.schema import ModelConfig


def build_model(
    config: ModelConfig, classes: int, *, activation: Activation = "sigmoid", pretrained: bool = True
) -> SegmentationModel:
    """Build the network.

    Args:
        config: architecture, encoder weights, preprocessing and branches.
        classes: channels of the output; under a softmax the background's comes first, beside them.
        activation: what the logits stand for.
        pretrained: False skips the encoder's downloaded weights, because a checkpoint will overwrite them.

    Raises:
        UserError: unknown network or encoder, or weights that cannot be downloaded.
    """
    channels = classes + (activation == "softmax")
    network = NETWORKS.get(config.name).configured(config, channels, config.encoder_weights if pretrained else None)
    network.activation = activation
    return network.expect(preprocessing_of(config.preprocessing))


def preprocessing_called(name: str) -> Preprocessing:
    """The preprocessing of a file of ``conf/preprocessing``.

    Raises:
        UserError: there is no such file.
    """
    from tta_bench.schema import PreprocessingConfig

    files = {path.stem: path for path in (CONFIG_DIR / "preprocessing").glob("*.yaml")}
    if name not in files:
        raise UserError(f"unknown preprocessing '{name}': {nearest(name, files)}")
    return preprocessing_of(PreprocessingConfig.model_validate(yaml.safe_load(files[name].read_text())))


def preprocessing_of(config: PreprocessingConfig | None) -> Preprocessing:
    """The preprocessing of a configuration; the paper's where it leaves that open."""
    return PAPER if config is None else Preprocessing(**config.model_dump())
