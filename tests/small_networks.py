"""Small networks with non-trivial normalisation, for every test of the core."""

import torch
import torch.nn.functional as F
from torch import nn

from tta_bench.models.bank import make_bank
from tta_bench.models.segmentation import NETWORKS, SegmentationModel

BRANCHES = ("reconstruction", "denoising", "super_resolution", "rotation", "regeneration")
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


class Configured(SmallNet):
    """The same, from the section ``model`` of a configuration; see :func:`make_known`."""

    @classmethod
    def configured(cls, config, classes, encoder_weights):
        return cls(classes, branches=config.branches)


def make_known(monkeypatch):
    """Let configurations name it, while a test runs; returns the name."""
    NETWORKS.names()
    monkeypatch.setattr(NETWORKS, "_items", {**NETWORKS._items, "small": Configured})
    return "small"


def independent(function):
    """A function of images as a network whose classes are on their own."""
    return _bound(function, "sigmoid")


def exclusive(function):
    """A function of images as a network whose classes exclude each other."""
    return _bound(function, "softmax")


def _bound(function, activation):
    function.activation = activation
    function.replayable = lambda work, *inputs, **settings: work(function, *inputs, **settings)
    return function


@torch.no_grad()
def scramble_normalisation(model, seed=0):
    """Random running statistics and affine parameters, so that source, batch and mixed statistics all differ."""
    generator = torch.Generator().manual_seed(seed)
    # The youngest branch comes last: all other layers are what they were without it.
    for _, layer in sorted(model.named_modules(), key=lambda named: named[0].startswith("branches.regeneration.")):
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3, generator=generator)
            layer.running_var.uniform_(0.5, 2.0, generator=generator)
            layer.weight.uniform_(0.5, 1.5, generator=generator)
            layer.bias.normal_(0, 0.2, generator=generator)
    return model.eval()


def source_images(count=8, size=SIZE):
    """Images ``[count, 3, size, size]`` in [0, 1] of which a bank is made: smooth, each of its own colours."""
    generator = torch.Generator().manual_seed(11)
    coarse = torch.rand(count, 3, 5, 5, generator=generator, dtype=torch.float64)
    return F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)


def with_bank(model, radius=2.2, kind="amplitudes_only"):
    """The model with a bank as methods of the setting ``tta+bank`` need it by default."""
    model.bank = make_bank(source_images(), radius, kind)
    return model


def build(network, *args, seed=0, **kwargs):
    """A float64 network with reproducible weights; tests that need float32 convert a copy."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return scramble_normalisation(network(*args, **kwargs)).double()
