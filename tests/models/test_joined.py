"""What is computed with the normalisation layer next to it: nobody who looks can tell."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from timm.layers import BatchNormAct2d
from torch import nn
from torchvision.models.resnet import BasicBlock

import tta_bench.runtime.numerics as numerics_module
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.foreign import ForeignNetwork
from tta_bench.models.joined import _Joined
from tta_bench.models.late_map import late_map
from tta_bench.models.normalisation import SourceStatistics
from tta_bench.runtime.numerics import _GPU

C = 8


class Named(nn.Sequential):
    """A sequence of one's own."""


class SmallRelu(nn.ReLU):
    """No ReLU but by name."""

    def forward(self, x):
        return x.clamp(0, 0.5)


def sequence(norm=nn.BatchNorm2d, relu=nn.ReLU, kind=nn.Sequential):
    return kind(nn.Conv2d(C, C, 3, padding=1), norm(C), relu())


def block(norm=nn.BatchNorm2d, relu=nn.ReLU, down=False):
    made = BasicBlock(C, C, downsample=nn.Sequential(nn.Conv2d(C, C, 1), norm(C)) if down else None, norm_layer=norm)
    made.relu = relu()
    return made


def encoder(depth, relu=nn.ReLU):
    made = ResNetEncoder((3, 64, 64, 128, 256, 512), depth, block=BasicBlock, layers=[1, 1, 1, 1])
    made.relu = relu()
    for stage in range(depth, 5):
        delattr(made, f"layer{stage}")
    return made


def upsampling(**options):
    return nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.Upsample(**options), nn.Conv2d(C, C, 1))


def decoder(**options):
    return UnetDecoderBlock(C, C, C, **options)


def decoded(factor):
    """By a block that is given a skip connection of ``factor`` times the size."""

    def run(net, x):
        height, width = (int(factor * side) for side in x.shape[2:])
        return net.parts[0](x, height, width, F.interpolate(x, (height, width), mode="bilinear"))

    return run


def all_features(net, x):
    maps = net.parts[0](x[:, :3])[1:]
    return sum(F.interpolate(each[:, :C], x.shape[2:]) for each in maps)


def hooked():
    relu = nn.ReLU()
    relu.register_forward_hook(lambda module, inputs, output: 2 * output)
    return relu


def patched():
    relu = nn.ReLU()
    relu.forward = torch.tanh
    return relu


def twice(relu):
    return nn.Sequential(nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C), relu, nn.Conv2d(C, C, 1), relu)


def with_convolution(convolution, make=sequence):
    made = make()
    made[0] = convolution
    return made


def observed(convolution):
    convolution.register_forward_hook(lambda module, inputs, output: output.sin())
    return convolution


def of_another_kind(convolution):
    convolution.forward = lambda x: nn.Conv2d.forward(convolution, x).sin()
    return convolution


def sharing_a_convolution(first, second):
    second[0] = first[0]
    return [first, second]


def of_two(sequence):
    """A layer that stands in two sequences, of which one has a ReLU."""
    return [sequence, nn.Sequential(nn.Conv2d(C, C, 1), sequence[1])]


def one_by_one(net, x):
    kept = []
    for layer in net.parts[0]:
        x = layer(x)
        kept.append(x)
    return torch.stack(kept).sum(0)


def inside_out(net, x):
    (part,) = net.parts
    return part.bn2(part.conv2(part.relu(part.bn1(part.conv1(x))))).sigmoid()


def in_turn(net, x):
    for part in net.parts:
        x = part(x)
    return x


def within_itself(net, x):
    return x + net.parts[0](x)


def within_a_skip(net, x):
    """Three gradients meet, whose sum depends on their order."""
    x = net.parts[0](x)
    return x + net.parts[1](x)


CASES = {
    "sequence": (sequence, in_turn),
    "sequence of its own": (lambda: sequence(kind=Named), in_turn),
    "in place": (lambda: sequence(relu=lambda: nn.ReLU(inplace=True)), in_turn),
    "ReLU of its own": (lambda: sequence(relu=SmallRelu), in_turn),
    "hooked ReLU": (lambda: sequence(relu=hooked), in_turn),
    "patched ReLU": (lambda: sequence(relu=patched), in_turn),
    "activation of the layer": (lambda: sequence(lambda c: BatchNormAct2d(c, act_layer=nn.SiLU)), in_turn),
    "no batch norm": (lambda: sequence(lambda c: nn.GroupNorm(2, c)), in_turn),
    "layers one by one": (sequence, one_by_one),
    "a part of it": (sequence, lambda net, x: net.parts[0][:2](x)),
    "in two sequences": (lambda: of_two(sequence()), in_turn),
    "one ReLU twice": (lambda: twice(nn.ReLU()), in_turn),
    "hooked convolution": (lambda: with_convolution(observed(nn.Conv2d(C, C, 1))), in_turn),
    "patched convolution": (lambda: with_convolution(of_another_kind(nn.Conv2d(C, C, 1))), in_turn),
    "grouped convolution": (lambda: with_convolution(nn.Conv2d(C, C, 3, padding=1, groups=2)), in_turn),
    "padded by a name": (lambda: with_convolution(nn.Conv2d(C, C, 3, padding="valid")), in_turn),
    "padded by reflection": (lambda: with_convolution(nn.Conv2d(C, C, 3, padding_mode="reflect", padding=1)), in_turn),
    "transposed convolution": (lambda: with_convolution(nn.ConvTranspose2d(C, C, 2, 2)), in_turn),
    "without a bias": (lambda: with_convolution(nn.Conv2d(C, C, 3, 2, 1, bias=False)), in_turn),
    "convolution of two sequences": (lambda: sharing_a_convolution(sequence(), sequence()), in_turn),
    "layer before a convolution": (lambda: nn.Sequential(nn.BatchNorm2d(C), nn.Conv2d(C, C, 1), nn.ReLU()), in_turn),
    "convolution, layer": (lambda: nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)), within_itself),
    "sequence and convolution": (sequence, lambda net, x: net.parts[0](x) + net.parts[0][0](x)),
    "sequence and layer": (sequence, lambda net, x: net.parts[0](x) + net.parts[0][1](x)),
    "block": (block, in_turn),
    "block with a downsampling": (lambda: block(down=True), in_turn),
    "block within a skip": (lambda: [sequence(), block(down=True)], within_a_skip),
    "block with another ReLU": (lambda: block(relu=nn.SiLU), in_turn),
    "block with a hooked ReLU": (lambda: block(relu=hooked), in_turn),
    "block with a patched ReLU": (lambda: block(relu=patched), in_turn),
    "block with activations": (lambda: block(lambda c: BatchNormAct2d(c, act_layer=nn.SiLU)), in_turn),
    "block without batch norm": (lambda: block(lambda c: nn.GroupNorm(2, c)), in_turn),
    "encoder": (lambda: encoder(3), all_features),
    "encoder with a hooked ReLU": (lambda: encoder(1, hooked), all_features),
    "layers of a block": (block, inside_out),
    "upsampling": (lambda: upsampling(scale_factor=2), in_turn),
    "upsampling of rows alone": (lambda: upsampling(scale_factor=(3, 1)), in_turn),
    "upsampling by one and a half": (lambda: upsampling(scale_factor=1.5), in_turn),
    "upsampling to a size": (lambda: upsampling(size=(20, 24)), in_turn),
    "smooth upsampling": (lambda: upsampling(scale_factor=2, mode="bilinear"), in_turn),
    "decoder": (decoder, decoded(2)),
    "decoder of an odd size": (decoder, decoded(1.5)),
    "smooth decoder": (lambda: decoder(interpolation_mode="bilinear"), decoded(2)),
}


class Net(nn.Module):
    """What the cases have between a stem and a head."""

    def __init__(self, make, run):
        super().__init__()
        self.run = run
        made = make()
        self.stem, self.parts = nn.Conv2d(3, C, 3, padding=1), nn.ModuleList(made if isinstance(made, list) else [made])
        self.head = nn.Conv2d(C, 2, 1)

    def forward(self, x):
        return self.head(self.run(self, self.stem(x)))


@pytest.fixture(autouse=True, params=["cpu", "gpu"])
def kernels_of(request, monkeypatch):
    """Lets the CPU be what it is, which folds convolutions, and a device that has kernels for what comes after."""
    if request.param == "gpu":
        monkeypatch.setattr(numerics_module, "_PLACEMENTS", {("cpu", "f32"): replace(_GPU, one_kernel=True)})
    return request.param


@pytest.fixture
def net(case):
    made, random = Net(*CASES[case]), torch.Generator().manual_seed(0)
    for name, value in made.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=random) + (0.5 if name.endswith("var") else -0.3))
    return made


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_network_gives_what_its_source_gives_at_every_module(net, images, case):
    """Its logits, the late map, and whatever module somebody names as the feature map that he wants."""
    images = images[:2].float()
    modules = [(name, module) for name, module in net.parts.named_modules() if name]
    places = [name for name, module in modules if type(module) is not nn.Identity and not name.endswith(".act")]
    for place in places:
        try:
            source = ForeignNetwork(net, features={"bottleneck": f"parts.{place}"})
        except Exception:  # a module that the source does not call
            continue
        network = AdaptableNetwork(source)
        rows = network.source_theta.expand(2, -1)
        found = network.activations(images, rows, SourceStatistics())
        for own, expected in zip(found, source.activations(images), strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(network(images, rows, SourceStatistics()), found.logits, rtol=1e-5, atol=1e-5)
    with late_map(source) as late:
        source(images)
    given = network.logits_and_late_map(images, rows, SourceStatistics())[1]
    torch.testing.assert_close(given, late.take(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_layers_that_stand_apart_to_the_bit(net, images, case, monkeypatch):
    def gradient():
        network = AdaptableNetwork(ForeignNetwork(net))
        rows = network.source_theta.repeat(2, 1).requires_grad_()
        network(images[:2].float(), rows, SourceStatistics()).square().mean().backward()
        return rows.grad

    joined = gradient()
    monkeypatch.setattr("tta_bench.models.adaptable.join", lambda model: None)
    assert torch.equal(joined, gradient())


@pytest.mark.parametrize("case", ["sequence of its own", "block with a downsampling"])
@torch.no_grad()
def test_what_is_joined_is_what_it_was_copied_and_pickled(net, images, case):
    network = AdaptableNetwork(ForeignNetwork(net))
    rows, images = network.source_theta[None], images[:1].float()
    (part,) = network.model.network.parts
    assert isinstance(part, _Joined)
    assert isinstance(part, Named if isinstance(part, nn.Sequential) else BasicBlock)
    expected = network(images, rows, SourceStatistics())
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert type(other.model.network.parts[0]) is type(part)
        assert torch.equal(other(images, other.source_theta[None], SourceStatistics()), expected)


@pytest.mark.parametrize("kernels_of", ["gpu"], indirect=True)
@pytest.mark.parametrize("case", ["sequence", "sequence of its own", "block"])
@torch.no_grad()
def test_a_layer_computes_what_follows_it_where_nobody_looks(net, images, case, monkeypatch):
    network = AdaptableNetwork(ForeignNetwork(net))
    monkeypatch.setattr(nn.ReLU, "forward", None)
    network(images[:1].float(), network.source_theta[None], SourceStatistics())


@pytest.mark.parametrize("kernels_of", ["gpu"], indirect=True)
@pytest.mark.parametrize("case", ["upsampling", "upsampling of rows alone", "decoder"])
def test_pixels_are_repeated_where_the_device_has_no_quick_gradient_of_its_own(net, images, case, monkeypatch):
    network = AdaptableNetwork(ForeignNetwork(net))
    monkeypatch.setattr("torch._C._nn.upsample_nearest2d", None)
    images = images[:1].float().contiguous(memory_format=torch.channels_last)
    found = network(images, network.source_theta[None], SourceStatistics())
    by_plane = network(images.contiguous(), network.source_theta[None], SourceStatistics())
    torch.testing.assert_close(found, by_plane, rtol=1e-5, atol=1e-5)
