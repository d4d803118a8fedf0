"""Whatever normalises in a network: wrapped, it is the source model, and what can be adapted is, stream by stream."""

import copy

import pytest
import segmentation_models_pytorch.encoders as library
import timm
import torch
from timm import layers as timm_layers
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.networks.unet import UNet
from tta_bench.models.normalisation import BatchStatistics, MixedStatistics, SourceStatistics
from tta_bench.models.probe import relative_difference
from tta_bench.models.segmentation import SegmentationModel

C = 8


class OwnForward(nn.BatchNorm2d):
    """A subclass that does something else besides normalising."""

    def forward(self, x):
        return super().forward(x).sigmoid()


class OnlyRenamed(nn.BatchNorm2d):
    """A subclass that adds nothing to the forward pass."""


class ChannelsFirst(nn.Module):
    """A layer of one's own, as many transformers bring along."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Tokens(nn.Module):
    """A layer over tokens ``[N, L, C]``."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x):
        return self.norm(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])


class LayerNorm2d(nn.Module):
    """A layer that derives from none of torch's."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class ConvNormOfAnother(nn.Sequential):
    """Called a norm, but none itself."""

    def __init__(self, channels):
        super().__init__(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))


class FewerGroups(nn.GroupNorm):
    """A subclass of a layer with own statistics, with another forward pass."""

    def __init__(self, channels):
        super().__init__(2, channels)

    def forward(self, x):
        return super().forward(x).tanh()


def hooked(channels):
    layer = nn.BatchNorm2d(channels)
    layer.register_forward_hook(lambda module, inputs, output: output.sigmoid())
    return layer


ADAPTED = {
    "BatchNorm2d": nn.BatchNorm2d,
    "OnlyRenamed": OnlyRenamed,
    "SyncBatchNorm": nn.SyncBatchNorm,
    "BatchNorm2d without running statistics": lambda c: nn.BatchNorm2d(c, track_running_stats=False),
    "BatchNormAct2d": timm_layers.BatchNormAct2d,
    "BatchNormAct2d with dropout": lambda c: timm_layers.BatchNormAct2d(c, drop_layer=nn.Dropout2d, act_layer=nn.SiLU),
    "BatchNormAct2d with PReLU": lambda c: timm_layers.BatchNormAct2d(c, act_layer=nn.PReLU),
    "SyncBatchNormAct": lambda c: timm_layers.convert_sync_batchnorm(timm_layers.BatchNormAct2d(c)),
    "FrozenBatchNormAct2d": timm_layers.FrozenBatchNormAct2d,
    "FrozenBatchNorm2d": FrozenBatchNorm2d,
    "InstanceNorm2d": lambda c: nn.InstanceNorm2d(c, affine=True),
    "InstanceNorm2d with running statistics": lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
    "GroupNorm": lambda c: nn.GroupNorm(4, c),
    "GroupNormAct": lambda c: timm_layers.GroupNormAct(c, num_groups=4),
    "GroupNorm1Act": timm_layers.GroupNorm1,
    "FewerGroups": FewerGroups,
    "LayerNorm channels last": ChannelsFirst,
    "LayerNorm over tokens": Tokens,
    "LayerNorm of an image": lambda c: nn.LayerNorm((c, 16, 16)),
    "LayerNorm2d of timm": timm_layers.LayerNorm2d,
    "LayerNormAct2d": timm_layers.LayerNormAct2d,
    "LayerNorm2d of its own": LayerNorm2d,
    "RmsNorm2d": timm_layers.RmsNorm2d,
    "EvoNorm2dS0": lambda c: timm_layers.EvoNorm2dS0(c, groups=4),
    "ConvNorm": ConvNormOfAnother,
}
LEFT = {
    "OwnForward": OwnForward,
    "hooked": hooked,
    "BatchNorm without affine": lambda c: nn.BatchNorm2d(c, affine=False),
    "GroupNorm without affine": lambda c: nn.GroupNorm(2, c, affine=False),
    "InstanceNorm2d without affine": nn.InstanceNorm2d,
    "neither running statistics nor affine": lambda c: nn.BatchNorm2d(c, affine=False, track_running_stats=False),
    "EvoNorm2dB0": timm_layers.EvoNorm2dB0,
    "no normalisation": lambda c: nn.Identity(),
}


class Net(SegmentationModel):
    """Two convolutions at a quarter of the resolution, each with a layer of some kind, and a BatchNorm2d."""

    def __init__(self, make):
        super().__init__(bottleneck_channels=C)
        self.inputs = nn.Conv2d(3, C, 3, 4, 1)
        self.first, self.between, self.second = make(C), nn.Conv2d(C, C, 3, 1, 1), make(C)
        self.plain, self.head = nn.BatchNorm2d(C), nn.Conv2d(C, 2, 1)

    def encode(self, images):
        return [self.second(self.between(self.first(self.inputs(images))))]

    def decode(self, features):
        return nn.functional.interpolate(self.plain(features[-1].relu()), scale_factor=4)

    def classify(self, head_input):
        return self.head(head_input)


@torch.no_grad()
def scrambled(model, seed=0):
    """Every parameter and running statistic away from where it started, float64, eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point() and value.dim() == 1:
            value.mul_(0.8 + 0.4 * torch.rand(value.shape, generator=generator))
            value.add_(0 if "var" in name else 0.2 * torch.randn(value.shape, generator=generator))
    return model.double().eval()


def made(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return scrambled(Net(make))


def with_row(model, network, row):
    """The source model with the affine parameters of one stream."""
    model, values = copy.deepcopy(model), iter(row.split(network._sizes))
    with torch.no_grad():
        for name in network.layers:
            layer = model.get_submodule(name)
            for part in ("weight", "bias"):
                value = next(values)
                if value.numel():
                    getattr(layer, part).copy_(value.view_as(getattr(layer, part)))
    return model


@pytest.mark.parametrize("kind", ADAPTED | LEFT)
def test_each_stream_is_the_source_model_with_its_row(images, kind):
    model = made((ADAPTED | LEFT)[kind])
    network = AdaptableNetwork(model)
    noise = torch.randn(2, network.source_theta.numel(), generator=torch.Generator().manual_seed(1)).double()
    for rows in (network.source_theta.expand(2, -1), network.source_theta + 0.2 * noise):
        out = network(images[:4], rows, SourceStatistics())
        for k in range(4):  # one image at a time: a layer may measure the whole batch
            expected = with_row(model, network, rows[k // 2])(images[k : k + 1])
            torch.testing.assert_close(out[k : k + 1], expected, rtol=0, atol=1e-10)
        few = copy.deepcopy(network)
        few.images_per_pass = 1
        with torch.no_grad():
            torch.testing.assert_close(few(images[:4], rows, SourceStatistics()), out, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ADAPTED | LEFT)
def test_what_is_adapted_and_what_is_left_is_told(kind):
    network = AdaptableNetwork(made((ADAPTED | LEFT)[kind]))
    assert len(network.layers) == (3 if kind in ADAPTED else 1)
    text = network.describe()
    assert text.startswith(f"{len(network.layers)} normalisation layers (")
    told = kind in LEFT and kind not in ("no normalisation", "BatchNorm without affine")
    assert ("2 more left as they are" in text) == (told and kind != "neither running statistics nor affine")


@pytest.mark.parametrize("kind", ADAPTED)
def test_gradients_of_every_row_are_those_of_the_source_model(images, kind):
    model = made(ADAPTED[kind])
    network = AdaptableNetwork(model)
    rows = network.source_theta.repeat(2, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(network(images[:2], rows, SourceStatistics()).square().sum(), rows)
    for s in range(2):
        alone = copy.deepcopy(model).requires_grad_()
        alone(images[s : s + 1]).square().sum().backward()
        parts = [
            value.grad if isinstance(value := getattr(alone.get_submodule(name), part), nn.Parameter) else None
            for name in network.layers
            for part in ("weight", "bias")
            if getattr(alone.get_submodule(name), part, None) is not None
        ]
        if None not in parts:  # frozen layers of other libraries hold theirs in buffers
            expected = torch.cat([part.flatten() for part in parts])
            # timm's EvoNorm takes deviations in float32, whatever it is given.
            tolerance = 1e-5 if kind == "EvoNorm2dS0" else 1e-8
            torch.testing.assert_close(gradient[s], expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["GroupNorm", "LayerNorm over tokens", "RmsNorm2d", "InstanceNorm2d"])
def test_policies_change_nothing_in_a_layer_with_statistics_of_its_own(images, kind):
    model = made(ADAPTED[kind])
    model.plain = nn.Identity()
    network = AdaptableNetwork(model)
    row = network.source_theta[None]
    expected = network(images[:2], row, SourceStatistics())
    for policy in (BatchStatistics(), MixedStatistics(0.3)):
        assert torch.equal(network(images[:2], row, policy), expected)
    assert [part.numel() for part in network.source_statistics] == [0, 0]


def test_a_layer_that_stands_in_several_places_has_one_row_and_is_replaced_in_all(images):
    model = made(nn.BatchNorm2d)
    model.second = model.first
    network = AdaptableNetwork(model)
    assert list(network.layers) == ["first", "plain"]
    assert network.reused == {"first"}
    row = network.source_theta + 0.1
    expected = with_row(model, network, row).train()
    for layer in (expected.first, expected.plain):
        layer.momentum = 0.0
    torch.testing.assert_close(network(images[:1], row[None]), expected(images[:1]), rtol=0, atol=1e-10)
    with pytest.raises(UserError, match="DomainAdaptor"):
        METHODS.get("domain_adaptor")(network)


def test_a_layer_that_is_no_submodule_is_found_out():
    model = made(nn.BatchNorm2d)
    hidden = nn.BatchNorm2d(C).double().eval()
    model.encode = lambda images: [hidden(model.inputs(images))]
    with pytest.raises(UserError, match="none of its submodules"):
        AdaptableNetwork(model)


class ReadsItsLayer(nn.Module):
    """Something that looks into its normalisation layer."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        if isinstance(self.norm, nn.BatchNorm2d):
            return self.norm(x).sigmoid()
        return self.norm(x)


class MixesImages(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class TokensFirst(nn.Module):
    """A layer over tokens ``[L, N, C]``, in which the images are not the first dimension."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x):
        return self.norm(x.flatten(2).permute(2, 0, 1)).permute(1, 2, 0).unflatten(2, x.shape[2:])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (ReadsItsLayer, "its output under source statistics is not that of the source model"),
        (lambda c: MixesImages(), "is not that of the source model|depends on the others"),
        (TokensFirst, "is not that of the source model|depends on the others"),
    ],
)
def test_a_network_that_does_not_survive_the_wrapping_is_refused_with_a_sentence(make, reason):
    with pytest.raises(UserError, match=reason):
        AdaptableNetwork(made(make))


def test_the_probe_disturbs_neither_the_random_state_nor_the_source_model():
    model = made(nn.BatchNorm2d).float()
    before, state = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    network = AdaptableNetwork(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert network.source_theta.dtype == torch.float32
    assert network.forwards == 0
    assert torch.equal(network.model.head.weight, model.head.weight)


def test_where_a_layer_sees_one_value_per_channel_the_source_statistics_stay(images):
    model = made(lambda c: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(c)))
    network = AdaptableNetwork(model)
    for policy in (BatchStatistics(), MixedStatistics(0.5, unbiased=True)):
        out = network(images[:2], network.source_theta[None].expand(2, -1), policy)
        assert out.isfinite().all()
        assert (out[0] - out[1]).abs().max() > 1e-6


HANDFUL = ("timm-efficientnet-b0", "tu-efficientnet_b0", "tu-mobilenetv3_small_100", "tu-resnetv2_50", "mit_b0")


@torch.no_grad()
def assert_no_adapt_is_the_source_model(encoder, size=64):
    """The prediction of ``no_adapt`` is that of the network in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNet(encoder, 2, decoder_channels=(16, 16, 8, 8, 8)).double().eval()
        images = torch.rand(1, 3, size, size, dtype=torch.float64)
    network = AdaptableNetwork(model, image_size=size)
    out = METHODS.get("no_adapt")(network).predict(images)
    assert relative_difference(out, model(images)) < 1e-9
    return network


@pytest.mark.parametrize("encoder", HANDFUL)
def test_without_adaptation_an_encoder_predicts_as_the_source_model(encoder):
    network = assert_no_adapt_is_the_source_model(encoder)
    assert not network.left


LARGEST = 60_000_000
"""Parameters of an encoder that the sweep builds; larger ones are the same code at another width or depth."""


@pytest.mark.slow
@pytest.mark.parametrize("encoder", sorted(library.encoders))
def test_every_encoder_of_the_library_predicts_as_the_source_model(encoder):
    if not encoder.startswith("mit_"):
        with torch.device("meta"):
            size = sum(p.numel() for p in library.get_encoder(encoder, weights=None).parameters())
        if size > LARGEST:
            pytest.skip(f"{size / 1e6:.0f} million parameters")
    elif encoder > "mit_b3":
        pytest.skip("larger variants of mit_b0")
    assert_no_adapt_is_the_source_model(encoder)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(timm.list_modules()))
def test_the_smallest_encoder_of_every_family_of_timm_predicts_as_the_source_model_or_is_no_encoder(family):
    candidates = []
    for name in timm.list_models(module=family):
        try:
            with torch.device("meta"):
                model = timm.create_model(name, features_only=True)
            candidates.append((sum(p.numel() for p in model.parameters()), name))
        except (RuntimeError, AttributeError, AssertionError, NotImplementedError, TypeError, ValueError, KeyError):
            continue
    if not candidates or min(candidates)[0] > LARGEST:
        pytest.skip("no encoder, or none that is small")
    name = min(candidates)[1]
    size = (timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()).input_size[-1]
    try:
        UNet(f"tu-{name}", 2)(torch.rand(2, 3, size, size))
    except Exception as error:
        pytest.skip(f"tu-{name} is no encoder: {error}")
    assert_no_adapt_is_the_source_model(f"tu-{name}", size)
