"""Frozen convolutions are those of torch, and lay out what is theirs at the moment."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

import tta_bench.runtime.numerics as numerics_module
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.frozen import freeze
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.normalisation import SourceStatistics
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.runtime.numerics import _GPU

LAYERS = [
    nn.Conv2d(8, 16, size, stride, padding, dilation, bias=bias)
    for size, stride, padding, dilation, bias in itertools.product((1, 3), (1, 2), (0, 1, 3), (1, 2), (True, False))
] + [nn.ConvTranspose2d(8, 16, 2, 2, bias=bias) for bias in (True, False)]
LEFT = [
    nn.Conv2d(8, 16, 3, groups=2),
    nn.Conv2d(8, 8, 3, padding="same"),
    nn.Conv2d(8, 8, 3, padding="valid"),
    nn.ConvTranspose2d(8, 16, 4, 2, 1),
]


def frozen(layer: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    made = nn.Sequential(copy.deepcopy(layer)).to(dtype).requires_grad_(False)
    freeze(made)
    return made[0]


def outcome(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Output, its gradient, and the gradient of that."""
    x = x.clone().requires_grad_()
    out = layer(x)
    (first,) = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    return out, first, second


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layer", LAYERS + LEFT, ids=str)
def test_output_and_gradients_are_those_of_torch(layer, dtype):
    x = torch.rand(2, 8, 12, 12, generator=torch.Generator().manual_seed(0)).to(dtype)
    plain = copy.deepcopy(layer).to(dtype).requires_grad_(False)
    made = frozen(layer, dtype)
    assert (type(made) is type(plain)) == (layer in LEFT)
    for ours, torchs in zip(outcome(made, x), outcome(plain, x), strict=True):
        bound = (1e-5 if dtype == torch.float32 else 3e-2) * torchs.abs().max().item()
        torch.testing.assert_close(ours, torchs, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layer", [nn.Conv2d(256, 512, 3, 2, 1), nn.Conv2d(256, 512, 1, 2), LAYERS[-1]], ids=str)
def test_an_image_has_the_same_numbers_alone_and_beside_others(layer, dtype):
    x = torch.rand(4, layer.in_channels, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    made = frozen(layer, dtype)
    alone = [outcome(made, each)[:2] for each in x.split(1)]
    for together, each in zip(outcome(made, x)[:2], zip(*alone, strict=True), strict=True):
        assert torch.equal(together, torch.cat(each))


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_maps_and_gradients_that_lie_plane_by_plane_stay_so_on_a_gpu(layer, monkeypatch):
    """The kernels that come next would copy others."""
    monkeypatch.setattr(numerics_module, "_PLACEMENTS", {("cpu", "f32"): _GPU})
    made, x = frozen(layer), torch.rand(2, 8, 12, 12, requires_grad=True)
    out = made(x)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    for each in (out, gradient):
        assert each.stride() == torch.empty(each.shape).stride()


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 16, 3), nn.ConvTranspose2d(8, 16, 2, 2)], ids=str)
def test_the_present_weights_count(layer):
    """Written to, of another precision, copied, stood in for, or to be learnt."""
    x, made = torch.rand(1, 8, 12, 12), frozen(layer)
    made(x)
    made.weight.mul_(2)
    plain = copy.deepcopy(layer).requires_grad_(False)
    plain.weight.mul_(2)
    for each in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        torch.testing.assert_close(each(x), plain(x))
    for each in (made, plain):
        each.bias = nn.Parameter(each.bias - 1, requires_grad=False)
    torch.testing.assert_close(made(x), plain(x))
    torch.testing.assert_close(made.double()(x.double()), plain.double()(x.double()))
    stand_in = torch.rand_like(made.float().weight).requires_grad_()
    made._parameters["weight"] = stand_in
    made(x).sum().backward()
    assert stand_in.grad is not None


def test_a_network_gives_the_same_as_without_the_table_of_placements(monkeypatch):
    torch.manual_seed(0)
    network = AdaptableNetwork(model := ResUNet(classes=2).eval())
    theta, images = network.source_theta.repeat(3, 1), torch.rand(3, 3, 64, 64)

    def made():
        rows = theta.clone().requires_grad_()
        logits = network(images, rows, SourceStatistics())
        (gradient,) = torch.autograd.grad(logits.square().mean(), rows)
        with torch.no_grad():
            return logits.detach(), network(images, theta, SourceStatistics()), gradient

    ours = made()
    assert network.model.encoder.conv1._laid_out is not None
    monkeypatch.setattr(numerics_module, "_PLACEMENTS", {})
    for each, plain, bound in zip(ours, made(), (1e-5, 1e-5, 1e-4), strict=True):
        assert each.is_contiguous()
        torch.testing.assert_close(each, plain, rtol=0, atol=bound * plain.abs().max().item())
    assert set(dict(network.model.named_parameters())) < set(dict(model.named_parameters()))


class Planes(SegmentationModel):
    """A network that takes its maps plane by plane."""

    def __init__(self) -> None:
        super().__init__(bottleneck_channels=4)
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def encode(self, images):
        return [images, self.bn(self.conv(images))]

    def decode(self, features):
        return features[-1].view(len(features[-1]), -1).relu().view(features[-1].shape)

    def classify(self, head_input):
        return self.head(head_input)


def test_a_network_that_views_its_planes_keeps_them():
    network, images = AdaptableNetwork(Planes()), torch.rand(1, 3, 64, 64)
    assert not network.channels_last
    assert network(images, network.source_theta[None]).shape == (1, 2, 64, 64)
