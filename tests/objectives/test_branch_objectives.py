"""The four objectives of auxiliary branches, against values by hand and against what they may depend on."""

import math

import pytest
import torch
import torch.nn.functional as F

from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import BatchStatistics
from tta_bench.models.pretext import PRETEXT_TASKS
from tta_bench.objectives.base import BoundNetwork, bind_objective, branches_of
from tta_bench.objectives.denoising import NOISE_STD, denoising
from tta_bench.objectives.reconstruction import rebuilding_error, reconstruction
from tta_bench.objectives.rotation import ROTATION_CLASSES, rotated, rotation
from tta_bench.objectives.super_resolution import shrink, super_resolution
from tta_bench.ops.draws import Draws, ImageKey
from tta_bench.ops.views import WEAK_VIEWS

OPTIONS = vars(default_options("grata"))
OPTIONS = vars(default_options("grata"))
NAMES = ("reconstruction", "rotation", "super_resolution", "denoising", "regeneration")
DRAWS = Draws([ImageKey(0, "B", f"image{index}") for index in range(3)])


class FixedNetwork:
    """Answers with given logits and remembers what it was shown."""

    def __init__(self, logits):
        self.logits = logits
        self.shown = []

    def branch(self, name, images):
        self.shown.append((name, images))
        return self.logits

    def replayable(self, function, *inputs, **settings):
        return function(self, *inputs, **settings)


def draws_of(count, seed=0, update=0):
    return Draws([ImageKey(seed, "B", f"image{index}") for index in range(count)], update)


# Values by hand


@pytest.mark.parametrize("name", ["reconstruction", "denoising", "super_resolution"])
def test_the_error_is_the_mean_square_over_channels_and_pixels_of_each_image(name):
    images = torch.zeros(2, 3, 2, 2, dtype=torch.float64)
    images[1, 0, 0, 0] = 1.0
    logits = torch.zeros_like(images)  # probability 1/2
    logits[0, 2] = math.log(3)  # 3/4 in one of three channels
    network = FixedNetwork(logits)
    losses = bind_objective(name, **OPTIONS)(network, images, draws_of(2))
    assert losses.tolist() == pytest.approx([(0.25 + 0.25 + 0.5625) / 3, 0.25], abs=1e-12)
    assert [shown for shown, _ in network.shown] == [name]


def test_the_error_lies_between_0_and_1():
    ones = torch.ones(1, 3, 2, 2, dtype=torch.float64)
    assert rebuilding_error(torch.full_like(ones, 800.0), ones).item() == 0
    assert rebuilding_error(torch.full_like(ones, -800.0), ones).item() == 1


def test_reconstruction_shows_the_image_as_it_is(images):
    network = FixedNetwork(torch.zeros_like(images))
    reconstruction(network, images, draws_of(12))
    assert torch.equal(network.shown[0][1], images)


def test_shrinking_by_two_keeps_the_corners_and_halves_each_side():
    image = torch.arange(16.0, dtype=torch.float64).reshape(1, 1, 4, 4)
    assert shrink(image, 2).tolist() == [[[[0.0, 3.0], [12.0, 15.0]]]]


def test_shrinking_by_four_keeps_a_quarter_of_each_side_stretched_to_half():
    image = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    low, high = image[0, 0, 0, 0], image[0, 0, 0, 7]
    (row, *_) = shrink(image, 4)[0, 0]
    third = (high - low) / 3
    torch.testing.assert_close(row, torch.stack([low, low + third, low + 2 * third, high]))
    assert shrink(image, 4).shape == shrink(image, 2).shape == (1, 1, 4, 4)
    assert not torch.allclose(shrink(image, 4), shrink(image, 2))


def test_super_resolution_shows_the_shrunk_image_and_compares_with_the_whole_one(images):
    network = FixedNetwork(torch.zeros_like(images))
    losses = super_resolution(network, images, draws_of(12), super_resolution_factor=2)
    assert torch.equal(network.shown[0][1], shrink(images, 2))
    torch.testing.assert_close(losses, (0.5 - images).square().mean((1, 2, 3)))
    super_resolution(network, images, draws_of(12), super_resolution_factor=4)
    assert torch.equal(network.shown[1][1], shrink(images, 4))


def test_the_noise_has_the_official_size_unless_the_paper_s_is_asked_for(images):
    network = FixedNetwork(torch.zeros_like(images))
    losses = denoising(network, images, draws_of(12), noise_std=NOISE_STD)
    denoising(network, images, draws_of(12), noise_std=1.0)
    official, literal = (shown - images for _, shown in network.shown)
    assert NOISE_STD == 0.1
    torch.testing.assert_close(literal, 10 * official)
    # 12 x 3 x 64 x 64 standard normal numbers: four standard errors of their mean and standard deviation.
    assert literal.mean().item() == pytest.approx(0, abs=4 / math.sqrt(literal.numel()))
    assert literal.std().item() == pytest.approx(1, abs=4 / math.sqrt(2 * literal.numel()))
    assert (images + literal).min() < 0, "neither clipped nor scaled back"
    torch.testing.assert_close(losses, (0.5 - images).square().mean((1, 2, 3)), msg="the target is the clean image")


def test_the_noise_differs_between_images_updates_and_seeds():
    images = torch.zeros(2, 3, 8, 8)
    noises = []
    for draws in (draws_of(2), draws_of(2, update=1), draws_of(2, seed=1)):
        network = FixedNetwork(images)
        denoising(network, images, draws, noise_std=NOISE_STD)
        noises += network.shown[0][1].unbind()
    assert len({tuple(noise.flatten().tolist()) for noise in noises}) == 6


def test_constant_logits_recognise_no_transform_ln_6(images):
    losses = rotation(FixedNetwork(torch.full((12, 6), 3.0, dtype=torch.float64)), images, draws_of(12))
    assert losses.tolist() == pytest.approx([math.log(6)] * 12, abs=1e-12)


def test_the_loss_of_a_transform_is_the_logarithm_of_its_probability():
    count = 400
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64).expand(count, 6)
    images = torch.arange(16.0, dtype=torch.float64).reshape(1, 1, 4, 4).expand(count, 3, 4, 4)
    network = FixedNetwork(logits)
    losses = rotation(network, images, draws_of(count))
    views = {name: WEAK_VIEWS[name][0](images[0]) for name in ROTATION_CLASSES}
    counts = dict.fromkeys(ROTATION_CLASSES, 0)
    for shown, loss in zip(network.shown[0][1], losses, strict=True):
        (name,) = [name for name, view in views.items() if torch.equal(view, shown)]
        counts[name] += 1
        assert loss.item() == pytest.approx(-torch.log_softmax(logits[0], 0)[ROTATION_CLASSES.index(name)].item())
    # Equal probabilities: 400 / 6 each, four standard deviations of a binomial number.
    assert all(abs(number - count / 6) < 4 * math.sqrt(count * 5 / 36) for number in counts.values()), counts


def test_the_classes_are_the_weak_views():
    assert set(ROTATION_CLASSES) == set(WEAK_VIEWS)
    image = torch.arange(4.0).reshape(1, 1, 2, 2)  # 0 1 over 2 3
    views = rotated(image.expand(6, 1, 2, 2), torch.arange(6)).flatten(1).tolist()
    assert views[ROTATION_CLASSES.index("horizontal_flip")] == [1, 0, 3, 2]
    assert views[ROTATION_CLASSES.index("vertical_flip")] == [2, 3, 0, 1]
    assert views[ROTATION_CLASSES.index("rotate_180")] == [3, 2, 1, 0]
    assert views[ROTATION_CLASSES.index("identity")] == [0, 1, 2, 3]
    assert sorted(views[i] for i in (2, 4)) == [[1, 3, 0, 2], [2, 0, 3, 1]]


# On a network


@pytest.fixture(scope="module")
def network(small_net):
    return AdaptableNetwork(small_net, NAMES)


def bind(network, rows):
    return BoundNetwork(network, rows, BatchStatistics())


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_reaches_the_encoder_and_the_branch_and_nothing_else(network, images, name):
    rows = network.source_theta.repeat(2, 1).requires_grad_()
    large = F.interpolate(images[:2], scale_factor=2)
    losses = bind_objective(name, **OPTIONS)(bind(network, rows), large, draws_of(2))
    (gradient,) = torch.autograd.grad(losses.sum(), rows)
    slices = iter(network.tensor_slices())
    reached = {
        layer: bool(gradient[:, next(slices)].any() | gradient[:, next(slices)].any()) for layer in network.layers
    }
    for layer, moved in reached.items():
        assert moved == layer.startswith(("down.", f"branches.{name}.")), layer


@pytest.mark.parametrize(
    ("name", "default", "literal"),
    [
        ("denoising", {"noise_std": 0.1}, {"noise_std": 1.0}),
        ("super_resolution", {"super_resolution_factor": 2}, {"super_resolution_factor": 4}),
    ],
)
def test_the_official_value_is_the_default_and_the_paper_s_an_option(network, images, name, default, literal):
    bound, large = bind(network, network.source_theta.repeat(3, 1)), F.interpolate(images[:3], scale_factor=2)
    plain, official, paper = (
        bind_objective(name, **options)(bound, large, DRAWS) for options in (OPTIONS, default, literal)
    )
    assert torch.equal(plain, official)
    assert (plain - paper).abs().min() > 1e-6


def test_objectives_name_the_branch_they_need():
    assert branches_of(("consistency", "entropy")) == ()
    assert branches_of(NAMES) == NAMES
    assert branches_of(("rotation", "entropy", "rotation")) == ("rotation",)


# The registry


def test_every_pretext_task_is_an_objective_of_its_own_branch():
    assert PRETEXT_TASKS.names() == sorted(NAMES)
    assert all(branches_of([name]) == (name,) for name in PRETEXT_TASKS.names())


@pytest.mark.parametrize("name", PRETEXT_TASKS.names())
def test_a_head_takes_any_bottleneck_and_its_loss_the_output(name):
    task = PRETEXT_TASKS.get(name)
    branch = task.head(24).double()
    scale = 64 if name == "super_resolution" else 32  # the branch sees half of each side and doubles it
    images = torch.rand(2, 3, 2 * scale, 2 * scale, dtype=torch.float64)

    def shown(images):
        return branch(images.new_ones(len(images), 24, images.shape[2] // 32, images.shape[3] // 32))

    loss = task.training_loss(shown, images)
    assert loss.shape == ()
    assert loss.isfinite()
    loss.backward()
    assert all(parameter.grad is not None for parameter in branch.parameters())
