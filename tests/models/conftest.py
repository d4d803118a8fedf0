"""What several files need: the authors' checkpoint, a hundred megabytes, made once; a layer of batch normalisation."""

from pathlib import Path

import pytest
import torch
from checkpoints import official_state
from normalised import CHANNELS, random
from torch import nn

from tta_bench.models.normalisation_layer import NormalisationLayer


@pytest.fixture(scope="session")
def official(tmp_path_factory) -> Path:
    """As :func:`official_state` lies on disk. Shared: tests read it."""
    path = tmp_path_factory.mktemp("official") / "last-Res_Unet.pth"
    torch.save(official_state(), path)
    return path


@pytest.fixture
def batch_norm():
    layer = nn.BatchNorm2d(CHANNELS).double()
    with torch.no_grad():
        layer.running_mean.copy_(random(CHANNELS, seed=1))
        layer.running_var.copy_(random(CHANNELS, seed=2, low=0.5, high=2))
        layer.weight.copy_(random(CHANNELS, seed=3, low=0.5, high=1.5))
        layer.bias.copy_(random(CHANNELS, seed=4))
    return layer


@pytest.fixture
def layer(batch_norm):
    return NormalisationLayer(batch_norm, channel_offset=0)
