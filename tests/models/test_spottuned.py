"""A network of two copies: which copy serves an image, layer by layer, and what is adapted in it afterwards."""

import copy

import pytest
import torch
from torch import nn

from small_networks import SmallNet, build
from tta_bench.errors import UserError
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.export import plain_copy
from tta_bench.models.late_map import late_map
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.networks.unet import UNet
from tta_bench.models.normalisation import BatchStatistics, SourceStatistics
from tta_bench.models.spottuned import SpotLayer, SpotTuned, layers_of

IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture(scope="module")
def source():
    return build(SmallNet, branches=("reconstruction",))


@pytest.fixture
def twofold(source):
    """Both copies apart, and a policy that sends every image its own way."""
    torch.manual_seed(0)
    network = SpotTuned(copy.deepcopy(source), layers_of(source, IMAGE)).double().eval()
    with torch.no_grad():
        for spot in (spot for group in network.spots for spot in group):
            for value in spot.tuned.parameters():
                value.mul_(1 + 0.2 * torch.randn_like(value))
        network.policy.head.weight.mul_(100)
        network.policy.head.bias.zero_()
        logits = network.logits_of_policy(IMAGES)
        network.policy.head.bias.sub_(logits.mean(0).flatten())
    return network


def test_a_layer_is_one_copy_or_the_other_and_its_gradient_their_difference():
    torch.manual_seed(0)
    spot = SpotLayer(nn.Conv2d(3, 4, 3))
    nn.init.normal_(spot.tuned.weight)
    x = torch.randn(3, 3, 8, 8)
    spot.choice = torch.tensor([1.0, 0.0, 1.0], requires_grad=True)
    out, frozen, tuned = spot(x), spot.frozen(x), spot.tuned(x)
    assert torch.equal(out, torch.stack([frozen[0], tuned[1], frozen[2]]))
    (gradient,) = torch.autograd.grad(out.sum(), spot.choice)
    assert torch.allclose(gradient, (frozen - tuned).sum((1, 2, 3)), rtol=1e-4)


def test_all_frozen_is_the_source_model_and_all_tuned_the_other_one(source, twofold):
    ones = torch.ones(3, len(twofold.layers), dtype=torch.float64)
    assert torch.equal(twofold.chosen(IMAGES, ones), source(IMAGES))
    other = copy.deepcopy(source)
    for names, group in zip(twofold.layers, twofold.spots, strict=True):
        for name, spot in zip(names, group, strict=True):
            other.get_submodule(name).load_state_dict(spot.tuned.state_dict())
    assert torch.equal(twofold.chosen(IMAGES, 0 * ones), other(IMAGES))
    equal = SpotTuned(copy.deepcopy(source), twofold.layers).double().eval()
    assert torch.equal(equal(IMAGES), source(IMAGES))


def test_the_larger_logit_chooses_for_every_image_on_its_own(twofold):
    logits, choice = twofold.logits_of_policy(IMAGES), twofold.choice(IMAGES)
    assert torch.equal(choice, (logits[..., 0] >= logits[..., 1]).double())
    assert len({tuple(row) for row in choice.tolist()}) == len(IMAGES)
    together = twofold(IMAGES)
    assert torch.equal(together, twofold.chosen(IMAGES, choice))
    assert torch.allclose(together, torch.cat([twofold(image[None]) for image in IMAGES]), atol=1e-10)
    assert torch.equal(twofold.activations(IMAGES).logits, together)
    inner = twofold.features(IMAGES)
    assert torch.equal(twofold.branch("reconstruction", IMAGES), twofold.branch_of("reconstruction", inner))
    assert all(spot.choice is None for group in twofold.spots for spot in group)


def test_a_layer_is_a_convolution_and_the_normalisation_behind_it(source):
    assert layers_of(source, IMAGE)[0] == ["down.0.0", "down.0.1"]
    assert layers_of(source, IMAGE)[-1] == ["head"]
    unet = build(UNet, "resnet18", 2)
    convolutions = [name for name, module in unet.named_modules() if isinstance(module, nn.Conv2d)]
    layers = layers_of(unet, IMAGE)
    assert sorted(names[0] for names in layers) == sorted(convolutions)
    assert sum(len(names) == 2 for names in layers) == len(layers) - 1  # all but the classifier
    resunet = layers_of(ResUNet(2), IMAGE)
    assert [name for names in resunet for name in names if "up" in name and "up4" in name] == ["up4.x_conv", "up4.bn"]
    assert ["up5"] not in resunet


def test_training_leaves_the_frozen_copy_as_it_is(source, twofold):
    before = copy.deepcopy([spot.state_dict() for group in twofold.spots for spot in group])
    twofold.train()
    twofold.chosen(IMAGES, torch.full((3, len(twofold.layers)), 0.5, dtype=torch.float64))
    twofold.eval()
    moved = set()
    for old, spot in zip(before, (spot for group in twofold.spots for spot in group), strict=True):
        moved |= {name for name, value in spot.state_dict().items() if not torch.equal(value, old[name])}
    assert moved == {f"tuned.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    ones = torch.ones(3, len(twofold.layers), dtype=torch.float64)
    assert torch.equal(twofold.chosen(IMAGES, ones), source(IMAGES))


def test_methods_adapt_the_normalisation_of_both_copies_and_never_the_policy(source, twofold):
    plain, network = AdaptableNetwork(source), AdaptableNetwork(twofold)
    assert len(network.layers) == 2 * len(plain.layers)
    assert network.source_theta.numel() == 2 * plain.source_theta.numel()
    assert network.left == {}
    row = network.source_theta[None]
    assert torch.allclose(network(IMAGES, row.expand(3, -1), SourceStatistics()), twofold(IMAGES), atol=1e-10)
    theta = row.expand(3, -1).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(IMAGES, theta, BatchStatistics()).square().sum(), theta)
    # Behind a copy that an image does not go through, nothing of it is adapted by it.
    choice = twofold.choice(IMAGES)
    places = {f"network.{name}": k for k, names in enumerate(twofold.layers) for name in names}
    for name, (scale, shift) in zip(
        network.layers, zip(*[iter(network.tensor_slices())] * 2, strict=True), strict=True
    ):
        place, _, kind = name.rpartition(".")
        taken = choice[:, places[place]] == (kind == "frozen")
        moved = gradient[:, scale.start : shift.stop].abs().sum(1) > 0
        assert torch.equal(moved, taken)
    shifted = 0.9 * row[0] + 0.01
    exported = plain_copy(twofold, network, shifted, BatchStatistics(), IMAGES[:1])
    assert torch.allclose(exported(IMAGES[:1]), network(IMAGES[:1], shifted[None], BatchStatistics()), atol=1e-9)
    whole = network.source_parameters[None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(IMAGES[:1], whole).square().sum(), whole)
    values = network.named_values(gradient[0])
    assert all(not value.any() for name, value in values.items() if name.startswith("policy."))
    assert any(value.any() for name, value in values.items() if name.endswith("tuned.weight"))


def test_features_behind_a_layer_are_refused(twofold):
    with pytest.raises(UserError, match="has two of each: choose another method"), late_map(twofold):
        twofold(IMAGES)
