import pytest

from small_networks import build
from tta_bench.models.networks.unet import UNet


@pytest.fixture
def model():
    return build(UNet, "tu-test_resnet", 2, decoder_channels=(16, 16, 8, 8, 8)).float()
