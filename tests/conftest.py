"""Small networks with non-trivial normalisation, and structured images, for every test of the core."""

import os

# Read when torch is first imported: test processes share few cores, and subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tta_bench.launch.validation  # noqa: F401  (the YAML of methods uses its resolver)
from tta_bench.models.networks.unet import UNet
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.ops.preprocessing import min_max

BRANCHES = ("reconstruction", "denoising", "super_resolution", "rotation")
SIZE = 64


class SmallNet(SegmentationModel):
    """A U-Net of nine normalisation layers: fast enough to run every method through every law."""

    def __init__(self, classes=2, widths=(8, 8, 12, 16, 24), branches=()):
        super().__init__(widths[-1], branches)
        inputs = (3, *widths[:-1])
        self.down = nn.ModuleList(self._block(a, b, stride=2) for a, b in zip(inputs, widths, strict=True))
        self.up = nn.ModuleList(self._block(a + b, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.head = nn.Conv2d(widths[0], classes, kernel_size=1)

    @staticmethod
    def _block(inputs, outputs, stride=1):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())

    def encode(self, images):
        features = []
        for block in self.down:
            images = block(images)
            features.append(images)
        return features

    def decode(self, features):
        x = features[-1]
        for block, skip in zip(self.up, features[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2), skip], dim=1))
        return F.interpolate(x, scale_factor=2)

    def classify(self, head_input):
        return self.head(head_input)


@torch.no_grad()
def scramble_normalisation(model, seed=0):
    """Random running statistics and affine parameters, so that source, batch and mixed statistics all differ."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3, generator=generator)
            layer.running_var.uniform_(0.5, 2.0, generator=generator)
            layer.weight.uniform_(0.5, 1.5, generator=generator)
            layer.bias.normal_(0, 0.2, generator=generator)
    return model.eval()


def build(network, *args, seed=0, **kwargs):
    """A float64 network with reproducible weights; tests that need float32 convert a copy."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return scramble_normalisation(network(*args, **kwargs)).double()


@pytest.fixture(scope="session")
def unet():
    """A library U-Net, float64, without branches. Shared: tests copy it before they change it."""
    return build(UNet, "resnet18", 2, decoder_channels=(16, 16, 8, 8, 8))


@pytest.fixture(scope="session")
def small_net():
    """A small network with all four branches, float64. Shared: tests copy it before they change it."""
    return build(SmallNet, branches=BRANCHES, seed=4)


@pytest.fixture(scope="session")
def images():
    """Twelve different images ``[12, 3, 64, 64]`` in [0, 1], float64: blobs, a disc and a little noise."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(12, 3, 6, 6, generator=generator, dtype=torch.float64)
    blobs = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=False)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    centres = 16 + 32 * torch.rand(12, 2, 1, 1, generator=generator)
    disc = torch.hypot(y - centres[:, 0], x - centres[:, 1]) < 14
    noise = torch.rand(blobs.shape, generator=generator, dtype=torch.float64)
    return min_max(blobs + 0.6 * disc[:, None] + 0.1 * noise)
