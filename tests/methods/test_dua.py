import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from small_networks import build
from tta_bench.methods.bn_only import BatchNormOnly
from tta_bench.methods.dua import DUA, augmented_copies
from tta_bench.methods.no_adapt import NoAdapt
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.ops.draws import Draws, ImageKey

KEYS = [ImageKey(0, "B", f"image{k}") for k in range(12)]
PLAIN = {"copies": 1, "augmentations": ()}


class OneLayer(SegmentationModel):
    """One normalisation layer at full resolution: thousands of values per channel."""

    def __init__(self):
        super().__init__(6)
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)

    def encode(self, images):
        return [F.relu(self.norm(self.conv(images)))]

    def decode(self, features):
        return features[-1]

    def classify(self, head_input):
        return self.head(head_input)


@pytest.fixture(scope="module")
def network(small_net):
    return AdaptableNetwork(small_net)


def start(network, streams=1, **options):
    method = DUA(network, replace(default_options("dua"), **options))
    method.start(streams)
    return method


def run(method, images):
    return [method.step(images[k : k + 1], KEYS[k : k + 1]) for k in range(len(images))]


def momenta(count, **options):
    network = SimpleNamespace(batch_norm_layers={"one": None})
    return DUA(network, replace(default_options("dua"), **options)).momentum(torch.arange(1, count + 1))


def test_the_momentum_decays_to_the_floor_bn5():
    used = momenta(400)
    for k, expected in {
        1: 0.099, 2: 0.09336, 3: 0.088058, 5: 0.07839, 10: 0.058862, 50: 0.009533, 80: 0.005708, 400: 0.005,
    }.items():  # fmt: skip
        assert used[k - 1].item() == pytest.approx(expected, abs=6e-7), k
    # The floor is not fed back: with it in the recursion the momentum would settle at 0.0833.
    recursion = 0.1
    for k in range(400):
        recursion *= 0.94
        assert used[k].item() == pytest.approx(recursion + 0.005, abs=1e-15)


def test_the_weight_left_on_the_source_bn5():
    left = (1 - momenta(650)).cumprod(0)
    expected = {1: 0.901, 10: 0.4470, 50: 0.1663, 80: 0.1347, 101: 0.1203, 159: 0.0897, 400: 0.0268, 650: 0.0077}
    assert {k: round(left[k - 1].item(), 4) for k in expected} == expected


def test_one_update_of_known_values_is_the_worked_example_bn6():
    model = OneLayer().double().eval()
    with torch.no_grad():
        model.conv.weight.zero_()
        model.conv.bias.zero_()
        model.conv.weight[0, 0, 1, 1] = 1
        model.norm.running_mean.fill_(5)
        model.norm.running_var.fill_(4)
    method = start(AdaptableNetwork(model), **PLAIN)
    method.step(torch.arange(4.0, dtype=torch.float64).view(1, 1, 2, 2).expand(1, 3, 2, 2), KEYS[:1])
    assert method.running.mean[0, 0].item() == pytest.approx(4.6535, abs=1e-12)
    assert method.running.variance[0, 0].item() == pytest.approx(3.7690, abs=1e-12)


@pytest.mark.parametrize("options", [{"decay": 0.0}, {"initial_momentum": 0.0}])
def test_without_momentum_the_statistics_stay_those_of_the_source_bn7(network, images, options):
    method = start(network, floor=0.0, **options)
    run(method, images[:3])
    mean, variance = network.source_statistics
    assert torch.equal(method.running.mean[0], mean)
    assert torch.equal(method.running.variance[0], variance)


def test_without_decay_and_floor_it_is_an_exponential_average():
    torch.testing.assert_close(
        momenta(50, decay=1.0, floor=0.0), torch.full((50,), 0.1, dtype=torch.float64), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("options", [{}, PLAIN, {"pad_mode": "zeros", "padding": 0.25}])
@torch.no_grad()
def test_it_is_torch_s_batch_norm_in_train_mode_on_the_copies(small_net, network, images, options):
    model = copy.deepcopy(small_net).eval()
    layers = [module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    method = start(network, **options)
    for k, result in enumerate(run(method, images[:4])):
        generators = Draws(KEYS[k : k + 1]).generators("copies")
        for layer in layers:
            layer.train().momentum = 0.1 * 0.94 ** (k + 1) + 0.005
        model(augmented_copies(images[k : k + 1], generators, method.options))
        for layer in layers:
            layer.eval()
        torch.testing.assert_close(result.logits, model(images[k : k + 1]), rtol=0, atol=1e-9)
        assert result.diagnostics["momentum"] == pytest.approx([0.1 * 0.94 ** (k + 1) + 0.005])


def test_all_weight_on_the_image_itself_is_bn_only_up_to_the_unbiased_factor(images):
    network = AdaptableNetwork(build(OneLayer))
    out = run(start(network, initial_momentum=1.0, decay=1.0, floor=0.0, **PLAIN), images[:3])
    bn_only = BatchNormOnly(network)
    factor = 64**2 / (64**2 - 1)
    for result, image in zip(out, images, strict=False):
        expected = bn_only.step(image[None], KEYS[:1]).logits
        difference = (result.logits - expected).abs().max()
        assert 0 < difference < 10 * (factor - 1)


def test_only_the_pass_over_the_copies_moves_the_statistics(network, images):
    method = start(network)
    run(method, images[:2])
    kept = method.running.mean.clone(), method.running.variance.clone()
    with torch.no_grad():
        method.predict(images[3:4])
    run(NoAdapt(network), images[:1])
    assert torch.equal(method.running.mean, kept[0])
    assert torch.equal(method.running.variance, kept[1])


def test_affine_parameters_and_source_statistics_stay(network, images):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    method = start(network)
    run(method, images[:3])
    assert torch.equal(method.theta(1)[0], network.source_theta)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert (method.running.mean[0] != network.source_statistics[0]).any()


def test_updates_end_where_they_are_told_to_and_cost_nothing_afterwards(network, images):
    limited, free = start(network, max_updates=2), start(network)
    before = network.forwards
    results = run(limited, images[:4])
    assert network.forwards - before == 2 * 17 + 2
    assert [r.diagnostics["momentum"][0] for r in results] == pytest.approx([0.099, 0.09336, 0, 0], abs=1e-6)
    run(free, images[:2])
    assert torch.equal(limited.running.mean, free.running.mean)


def test_an_image_that_is_not_finite_counts_as_no_update(network, images):
    faulty = images[:4].clone()
    faulty[1, :, 3, 3] = float("nan")
    method = start(network)
    results = run(method, faulty)
    assert [r.diagnostics["skipped"][0] for r in results] == [False, True, False, False]
    assert method.skipped == 1
    alone = start(network)
    for k in (0, 2, 3):
        expected = alone.step(images[k : k + 1], KEYS[k : k + 1])
    torch.testing.assert_close(results[3].logits, expected.logits, rtol=0, atol=1e-12)


def test_streams_of_which_one_had_a_fault_keep_their_own_momentum(network, images):
    pair = images[:4].view(2, 2, 3, 64, 64).clone()
    pair[0, 1, :, 3, 3] = float("inf")
    method = start(network, streams=2)
    method.step(pair[0], KEYS[:2])
    second = method.step(pair[1], KEYS[2:4])
    assert second.diagnostics["momentum"] == pytest.approx([0.09336, 0.099])


# The copies


def copies_of(image, count=64, seed=0, **options):
    return augmented_copies(
        image[None], [torch.Generator().manual_seed(seed)], replace(default_options("dua"), copies=count, **options)
    )


def test_without_augmentations_the_copies_are_the_image(images):
    assert torch.equal(copies_of(images[0], 3, augmentations=()), images[:1].expand(3, -1, -1, -1))


def test_flips_and_rotations_are_the_eight_symmetries_of_the_square(images):
    symmetries = [torch.rot90(flipped, q, (1, 2)) for flipped in (images[0], images[0].flip(2)) for q in range(4)]
    drawn = [
        next(i for i, symmetry in enumerate(symmetries) if torch.equal(copy, symmetry))
        for copy in copies_of(images[0], 400, augmentations=("flip", "rotate"))
    ]
    counts = torch.bincount(torch.tensor(drawn), minlength=8)
    assert (counts > 25).all()  # 50 expected of each
    only_flips = copies_of(images[0], 100, augmentations=("flip",))
    assert all(torch.equal(c, images[0]) or torch.equal(c, images[0].flip(2)) for c in only_flips)


@pytest.mark.parametrize("mode", ["reflect", "zeros"])
def test_crops_lie_anywhere_in_the_padded_image(mode):
    y, x = torch.meshgrid(torch.arange(1.0, 65), torch.arange(1.0, 65), indexing="ij")
    copies = copies_of(torch.stack([y, x, y]), 600, augmentations=("crop",), pad_mode=mode)
    assert copies.shape == (600, 3, 64, 64)
    offsets = (copies[:, 0, 32, 32] - 33, copies[:, 1, 32, 32] - 33)
    for offset in offsets:
        assert offset.unique().tolist() == list(range(-8, 9))  # an eighth of 64 pixels
    assert (copies == 0).any() == (mode == "zeros")


def test_the_copies_of_an_image_depend_on_no_neighbour_and_on_the_seed(images):
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    together = augmented_copies(images[:2], generators, replace(default_options("dua"), copies=5))
    assert torch.equal(together[5:], copies_of(images[1], 5, seed=4))
    assert not torch.equal(together[5:], copies_of(images[1], 5, seed=5))


def test_leaving_one_augmentation_out_leaves_the_draws_of_the_others(images):
    both = copies_of(images[0], 20, augmentations=("flip", "rotate"))
    rotations = copies_of(images[0], 20, augmentations=("rotate",))
    same = [torch.equal(a, b) for a, b in zip(both, rotations, strict=True)]
    assert any(same)
    assert not all(same)


@pytest.mark.parametrize(
    "options",
    [
        {"initial_momentum": 1.5},
        {"decay": -0.1},
        {"floor": 2.0},
        {"initial_momentum": 1.0, "decay": 1.0, "floor": 0.1},
        {"copies": 0},
        {"padding": 0.6},
        {"max_updates": -1},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        replace(default_options("dua"), **options)
