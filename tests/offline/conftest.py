import numpy as np
import pytest
import torch

from small_networks import build
from tta_bench.data.domain import Domain
from tta_bench.models.networks.unet import UNet

CLASSES = {"disc": (1, 2), "cup": (2,)}


def discs(name, count=4, brightness=100):
    """Noisy images with a bright disc, and a brighter cup in it."""
    rng = np.random.default_rng([ord(letter) for letter in name])
    y, x = np.mgrid[:64, :64]
    images = rng.integers(0, 40, (count, 64, 64, 3), dtype=np.uint8)
    masks = np.zeros((count, 64, 64), np.uint8)
    for index in range(count):
        row, column = rng.integers(24, 40, 2)
        distance = np.hypot(y - row, x - column)
        masks[index] = (distance < 18).astype(np.uint8) + (distance < 9)
        images[index] += (brightness * masks[index])[..., None].astype(np.uint8)
    return Domain(name, tuple(f"{name}{k}" for k in range(count)), images, masks, CLASSES, f"print of {name}")


def gathered_of(model):
    """What Adam has gathered after a step, by the names of the parameters."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: {
            "step": torch.tensor(1.0),
            "exp_avg": torch.randn(each.shape, generator=generator) * 1e-3,
            "exp_avg_sq": torch.rand(each.shape, generator=generator) * 1e-4,
        }
        for name, each in model.named_parameters()
    }


@pytest.fixture
def model():
    return build(UNet, "resnet18", 2, decoder_channels=(16, 16, 8, 8, 8)).float()
