"""The encoder's own max pooling is torch's, bit for bit."""

import pytest
import torch
from torch import nn

from tta_bench.models.encoder import StemMaxPool, build_encoder


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 5, 32, 48), (1, 1, 7, 8), (1, 1, 8, 7)])
@pytest.mark.parametrize("gradient", [True, False])
def test_max_pooling_equals_torchs(shape, gradient):
    torch.manual_seed(0)
    original = nn.MaxPool2d(3, 2, 1)
    x = torch.randn(shape)  # negative values too: padding must not count as zero
    before = x.clone()
    with torch.set_grad_enabled(gradient):
        assert torch.equal(StemMaxPool(original)(x), original(x))
    assert torch.equal(x, before)


def test_the_resnet_encoder_uses_it_and_keeps_its_weights_names():
    encoder = build_encoder("resnet18", None)
    assert isinstance(encoder.maxpool, StemMaxPool)
    assert not [key for key in encoder.state_dict() if "maxpool" in key]
