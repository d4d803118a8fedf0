"""Normalisation folded into the convolution before it: the source model's own pass, and no other."""

import copy
import itertools
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import tta_bench.runtime.numerics as numerics_module
from small_networks import SmallNet, build
from tta_bench.methods.base import METHODS
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.folded import folded
from tta_bench.models.foreign import ForeignNetwork
from tta_bench.models.frozen import FrozenConv2d
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.networks.smp import LibraryNetwork
from tta_bench.models.networks.unet import UNet
from tta_bench.models.normalisation import BatchStatistics, MixedStatistics, RunningStatistics, SourceStatistics
from tta_bench.models.placement import place
from tta_bench.models.segmentation import NETWORKS
from tta_bench.ops.draws import ImageKey
from tta_bench.runtime.numerics import HOST, has_bfloat16

SHIPPED = {
    "resunet34": lambda: build(ResUNet, 2),
    "unet": lambda: build(UNet, "resnet18", 2),
    "smp": lambda: build(LibraryNetwork, "FPN", "resnet18", 2),
}
SOURCE = SourceStatistics()


def placed(model, precision="f32"):
    return place(AdaptableNetwork(copy.deepcopy(model).float()), HOST, 64, precision)


def folds(network):
    """How many convolutions have been folded with what is behind them."""
    return sum(isinstance(m, FrozenConv2d) and m.folded is not None for m in network.modules())


class Names(TorchDispatchMode):
    """The operations that are computed within."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func._overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def network(small_net):
    return placed(small_net)


@pytest.fixture
def few(images):
    return images[:4].float()


@pytest.fixture
def unfolded(monkeypatch):
    """Lets nothing be folded from now on."""
    table = {key: replace(row, folded=False) for key, row in numerics_module._PLACEMENTS.items()}
    return lambda: monkeypatch.setattr(numerics_module, "_PLACEMENTS", table)


def relative(value, expected):
    return ((value - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("biased", [True, False])
def test_a_folded_convolution_is_the_convolution_normalised(biased):
    random = torch.Generator().manual_seed(0)
    x, weight, *rows = (
        torch.randn(*s, generator=random, dtype=torch.float64) for s in ((2, 4, 9, 9), (6, 4, 3, 3), *[(6,)] * 5)
    )
    bias, mean, variance, scale, shift = rows[0] if biased else None, rows[1], rows[2].square(), rows[3], rows[4]
    variance[0] = 0  # of a channel that is always the same
    expected = F.batch_norm(F.conv2d(x, weight, bias), mean, variance, scale, shift, eps=1e-5)
    made = F.conv2d(x, *folded(weight, bias, mean, variance, scale, shift, 1e-5))
    assert relative(made, expected) < 1e-12


def test_all_networks_are_on_the_table():
    assert {name for name in NETWORKS.names() if NETWORKS.get(name).__module__.startswith("tta_bench.")} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
@torch.no_grad()
def test_no_adapt_gives_the_same_logits(name, few, unfolded):
    """In 32 bits but for rounding; in 16 as close to those of 32 as without."""

    def logits(precision):
        network = placed(model, precision)
        method = METHODS.get("no_adapt")(network)
        method.start(1)
        made = method.step(few[:1], [ImageKey(0, "domain", "image")]).logits
        return made, folds(network)

    model = SHIPPED[name]()
    precisions = ["f32", "bf16"] if has_bfloat16(HOST) else ["f32"]
    ours = {each: logits(each) for each in precisions}
    unfolded()
    plain = {each: logits(each) for each in precisions}
    assert min(n for _, n in ours.values()) > 10
    assert not any(n for _, n in plain.values())
    exact = plain["f32"][0]
    assert relative(ours["f32"][0], exact) < 1e-5
    if "bf16" in precisions:
        assert relative(ours["bf16"][0], exact) < 2 * relative(plain["bf16"][0], exact)


@torch.no_grad()
def test_streams_and_views_give_what_each_image_gives(network, few):
    alone = torch.cat([network(image[None], network.source_theta[None], SOURCE) for image in few])
    assert folds(network) == len(network.layers)
    for streams, limit in itertools.product((1, 2, 4), (1, 3, None)):
        network.images_per_pass = limit
        with Names() as names:
            made = network(few, network.source_theta.expand(streams, -1), SOURCE)
        assert not any("norm" in name for name in names.seen)
        assert relative(made, alone) < 1e-5


def _moved(network):
    return [row.repeat(4, 1) for row in network.source_statistics]


OTHERS = {
    "rows of its own": lambda net: (net.source_theta.clone()[None], SOURCE),
    "adapted rows": lambda net: (1.1 * net.source_theta[None], SOURCE),
    "the image": lambda net: (net.source_theta[None], BatchStatistics()),
    "a mixture": lambda net: (net.source_theta[None], MixedStatistics(1.0)),
    "running": lambda net: (net.source_theta.expand(4, -1), RunningStatistics(*_moved(net))),
    "all parameters": lambda net: (net.source_parameters[None], SOURCE),
}


@pytest.mark.parametrize("other", OTHERS)
@torch.no_grad()
def test_every_other_pass_stays_bit_for_bit_what_it_was(network, few, other, unfolded):
    network(few, network.source_theta[None], SOURCE)
    ours = network(few, *OTHERS[other](network))
    unfolded()
    assert torch.equal(ours, network(few, *OTHERS[other](network)))


def test_a_pass_whose_gradient_is_asked_for_is_not_folded(network, few):
    theta = network.source_theta[None].clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(few, theta, SOURCE).square().mean(), theta)
    own = network.source_theta.detach()[None].requires_grad_()
    (gradient,) = torch.autograd.grad(network(few, own, SOURCE).square().mean(), own)
    assert torch.equal(gradient, expected)
    assert not folds(network)


@torch.no_grad()
def test_the_present_weights_count(network, few, unfolded):
    """Written to, copied and pickled."""
    theta = network.source_theta[None]
    network(few, theta, SOURCE)
    for parameter in network.model.down.parameters():
        parameter.mul_(1.5)
    network.model.down[0][0].bias = nn.Parameter(network.model.down[0][0].bias + 1, requires_grad=False)
    made = [each(few, theta, SOURCE) for each in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network)))]
    unfolded()
    expected = network(few, theta, SOURCE)
    assert max(relative(each, expected) for each in made) < 1e-5


@torch.no_grad()
def test_what_is_left_of_a_pass_is_what_cannot_be_folded(few):
    """Layers behind a concatenation or a grouped convolution, and those that an activation is part of, normalise."""

    class Net(SmallNet):
        def __init__(self):
            super().__init__()
            self.down[1][0] = nn.Conv2d(8, 8, 3, 2, 1, groups=2)
            self.down[2].insert(1, nn.Dropout(0.1))

    network = placed(ForeignNetwork(build(Net)))
    network(few, network.source_theta[None], SOURCE)
    assert folds(network) == len(network.layers) - 2
