"""Build a segmentation network from its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import yaml
from torch import nn

from tta_bench.errors import UserError, nearest
from tta_bench.models.catenorm import add_categorical_norm
from tta_bench.models.segmentation import NETWORKS, SegmentationModel
from tta_bench.models.spottuned import SpotTuned
from tta_bench.ops.preprocessing import PAPER, Preprocessing
from tta_bench.ops.probabilities import Activation
from tta_bench.runtime.paths import CONFIG_DIR

if TYPE_CHECKING:
    from tta_bench.runtime.sections import PreprocessingConfig
    from tta_bench.schema import ModelConfig


def build_model(
    config: ModelConfig,
    classes: int,
    *,
    activation: Activation = "sigmoid",
    pretrained: bool = True,
    spottuned: Sequence[Sequence[str]] | None = None,
) -> SegmentationModel:
    """Build the network.

    Args:
        config: architecture, encoder weights, preprocessing and branches.
        classes: channels of the output; under a softmax the background's comes first, beside them.
        activation: what the logits stand for.
        pretrained: False skips the encoder's downloaded weights, because a checkpoint will overwrite them.
        spottuned: the layers of which there are two, in a checkpoint of :mod:`~tta_bench.models.spottuned`.

    Raises:
        UserError: unknown network or encoder, or weights that cannot be downloaded.
    """
    channels = classes + (activation == "softmax")
    network = NETWORKS.get(config.name).configured(config, channels, config.encoder_weights if pretrained else None)
    network.activation = activation
    if config.channels == 1:
        show_grey(network)
    if config.norm == "catenorm":
        assert config.norm_blocks is not None
        add_categorical_norm(network, channels, config.norm_blocks)
    network.expect(preprocessing_of(config.preprocessing))
    return network if spottuned is None else SpotTuned(network, spottuned)


def show_grey(network: SegmentationModel) -> None:
    """Make a network of red, green and blue one of a single channel: on grey images it stays the same function.

    The kernels of the three channels are added, which are shown the same there; random kernels have the variance of one
    channel's then.

    Raises:
        UserError: its first convolution is not one of three channels.
    """
    parts = (module for name, part in network.named_children() if name != "branches" for module in part.modules())
    first = next((module for module in parts if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != 3 or first.groups != 1:
        raise UserError("model.channels=1: the network begins with no convolution of three channels; leave it out")
    first.weight = nn.Parameter(first.weight.detach().sum(1, keepdim=True))
    first.in_channels = network.in_channels = 1


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
