import math

import pytest
import torch
import torch.nn.functional as F

from small_networks import independent
from strong import drawn_views
from tta_bench.errors import UserError
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import BatchStatistics
from tta_bench.objectives.base import OBJECTIVES, BoundNetwork, bind_objective
from tta_bench.objectives.consistency import consistency, pseudo_label
from tta_bench.objectives.entropy import entropy, positive_entropy
from tta_bench.ops.draws import Draws, ImageKey
from tta_bench.ops.probabilities import cross_entropies, entropies
from tta_bench.ops.views import WEAK_VIEWS, Operation, StrongAugmentation

NOTHING = Operation(0, (1, 1))
OPTIONS = vars(default_options("grata"))
STRONG = OPTIONS["strong_augmentation"]
NO_STRONG = StrongAugmentation(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, 0.5)
DRAWS = Draws([ImageKey(0, "B", f"image{index}") for index in range(3)])
IMAGE_BRANCHES = ("reconstruction", "denoising", "super_resolution")


def images_for(name, images):
    """Of a size at which every layer sees more than one value: ``super_resolution`` shows its branch half the side."""
    return F.interpolate(images, scale_factor=2) if name == "super_resolution" else images


@pytest.fixture(scope="module")
def network(small_net):
    return AdaptableNetwork(small_net, (*IMAGE_BRANCHES, "rotation", "regeneration"))


def bind(network, rows):
    return BoundNetwork(network, rows, BatchStatistics())


def rows_of(network, streams):
    """A different state for every stream."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(streams, network.source_theta.numel(), generator=generator, dtype=torch.float64)
    return network.source_theta + 0.1 * noise


def scalar(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


# Entropy


@pytest.mark.parametrize(
    ("logit", "value", "slope"),
    [
        (0.0, 0.3465726, -0.0767132),
        (-0.541325, 0.3678784, 1.5e-8),
        (math.log(0.3 / 0.7), 0.3611908, 0.0428343),
        (2.0, 0.1117968, -0.0916670),
        (-10.0, 4.5299e-4, 4.0855e-4),
    ],
)
def test_the_positive_entropy_and_its_slope_follow_the_table_of_section_1_1(logit, value, slope):
    s = scalar(logit)
    out = positive_entropy(s)
    (gradient,) = torch.autograd.grad(out, s)
    assert out.item() == pytest.approx(value, abs=6e-8)
    # The table has the logit of the maximum to six digits: its slope is zero to within that rounding.
    assert gradient.item() == pytest.approx(slope, abs=3e-7)


@pytest.mark.parametrize(("logit", "sign"), [(0.0, 0), (-0.541325, 1), (-0.8472979, 1), (2.0, -1), (-10.0, 1)])
def test_the_binary_entropy_pushes_every_pixel_away_from_one_half(logit, sign):
    s = scalar(logit)
    value = entropies(s, "sigmoid")
    (gradient,) = torch.autograd.grad(value, s)
    p = 1 / (1 + math.exp(-logit))
    assert value.item() == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), abs=1e-12)
    assert gradient.sign().item() == sign


@pytest.mark.parametrize("form", [positive_entropy, lambda s: entropies(s, "sigmoid")])
def test_entropies_of_extreme_logits_are_finite(form):
    s = torch.tensor([-1e4, -100.0, 100.0, 1e4], requires_grad=True)
    out = form(s)
    (gradient,) = torch.autograd.grad(out.sum(), s)
    assert out.isfinite().all()
    assert gradient.isfinite().all()
    assert out.detach().abs().max() < 1e-5


def test_the_entropy_sums_over_channels_and_averages_over_pixels():
    images = torch.rand(3, 3, 64, 64)
    zeros = torch.zeros(3, 2, 64, 64, dtype=torch.float64)
    losses = entropy(independent(lambda x: zeros), images, DRAWS, entropy_form="positive")
    torch.testing.assert_close(losses, torch.full((3,), 0.6931452, dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("form", "slope"), [("positive", -0.0767132), ("binary", 0.0)])
def test_the_slope_at_zero_logits_is_shared_by_all_pixels_t1(form, slope):
    logits = torch.zeros(1, 2, 64, 64, dtype=torch.float64, requires_grad=True)
    loss = entropy(independent(lambda x: logits), torch.rand(1, 3, 64, 64), DRAWS, entropy_form=form)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient, torch.full_like(gradient, slope / 64**2), rtol=1e-6, atol=0)


# Consistency


def test_the_soft_cross_entropy_and_its_slope_are_the_worked_example_g9():
    s = scalar(0.3)
    loss = cross_entropies(s, torch.tensor(0.62, dtype=torch.float64), "sigmoid")
    (gradient,) = torch.autograd.grad(loss, s)
    assert loss.item() == pytest.approx(0.6683552, abs=5e-8)
    assert gradient.item() == pytest.approx(-0.0455575, abs=5e-8)


def test_the_soft_cross_entropy_is_torch_s_and_stable():
    logits = torch.tensor([-1e3, -4.0, 0.0, 2.5, 1e3])
    target = torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0])
    expected = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    torch.testing.assert_close(cross_entropies(logits, target, "sigmoid"), expected)


def test_the_pseudo_label_averages_probabilities_not_logits():
    views = ("identity", "horizontal_flip")
    network = independent(lambda x: torch.tensor([4.0, -1.0]).view(2, 1, 1, 1).expand(2, 2, 64, 64))
    label = pseudo_label(network, torch.rand(1, 3, 64, 64), views)
    torch.testing.assert_close(label, torch.full((1, 2, 64, 64), 0.625478), rtol=0, atol=1e-6)


def test_the_pseudo_label_of_a_pointwise_network_is_its_prediction(images):
    """Only if every view is mapped back by its own inverse."""
    label = pseudo_label(independent(lambda x: x[:, :2] - 0.5), images[:3])
    torch.testing.assert_close(label, torch.sigmoid(images[:3, :2] - 0.5), rtol=0, atol=1e-12)


def test_the_pseudo_label_is_the_mean_over_the_six_views_written_out(network, images):
    bound = bind(network, rows_of(network, 1))
    x = images[:1]
    p = [torch.rot90(torch.sigmoid(bound(torch.rot90(x, k, (2, 3)))), -k, (2, 3)) for k in range(4)]
    p += [torch.sigmoid(bound(x.flip(d))).flip(d) for d in (2, 3)]
    torch.testing.assert_close(pseudo_label(bound, x), torch.stack(p).mean(0), rtol=0, atol=1e-12)


def test_no_gradient_flows_through_the_pseudo_label(network, images):
    rows = rows_of(network, 2).requires_grad_()
    bound = bind(network, rows)
    label = pseudo_label(bound, images[:2])
    assert not label.requires_grad
    (gradient,) = torch.autograd.grad(
        consistency(bound, images[:2], Draws(DRAWS.keys[:2]), strong_augmentation=STRONG).sum(), rows
    )
    strong = drawn_views(images[:2], Draws(DRAWS.keys[:2]).generators("strong view"), STRONG)
    student = F.binary_cross_entropy_with_logits(bound(strong), label, reduction="none").mean((1, 2, 3))
    (expected,) = torch.autograd.grad(student.sum(), rows)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_consistency_of_an_image_with_itself_has_no_gradient_g5(network, images):
    rows = rows_of(network, 3).requires_grad_()
    loss = consistency(bind(network, rows), images[:3], DRAWS, strong_augmentation=NO_STRONG, views=("identity",))
    (gradient,) = torch.autograd.grad(loss.sum(), rows)
    assert gradient.abs().max() < 1e-12


def test_consistency_differs_between_seeds_through_the_strong_view_only(network, images):
    bound = bind(network, rows_of(network, 3))
    other = Draws([ImageKey(1, key.domain, key.image) for key in DRAWS.keys])
    for strong, differ in ((STRONG, True), (NO_STRONG, False)):
        first, second = (consistency(bound, images[:3], d, strong_augmentation=strong) for d in (DRAWS, other))
        assert torch.equal(first, second) != differ


# Laws of every objective


def losses_and_gradients(name, network, images, rows, draws):
    rows = rows.detach().requires_grad_()
    losses = bind_objective(name, **OPTIONS)(bind(network, rows), images, draws)
    (gradient,) = torch.autograd.grad(losses.sum(), rows)
    return losses.detach(), gradient


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_objective_gives_each_stream_a_loss_and_gradient_of_its_own(network, images, name):
    rows, images = rows_of(network, 3), images_for(name, images)
    losses, gradients = losses_and_gradients(name, network, images[:3], rows, DRAWS)
    assert losses.shape == (3,)
    assert losses.isfinite().all()
    assert gradients.abs().amax(1).min() > 0
    for s in range(3):
        one = slice(s, s + 1)
        loss, gradient = losses_and_gradients(name, network, images[one], rows[one], Draws(DRAWS.keys[one]))
        torch.testing.assert_close(losses[one], loss, rtol=0, atol=1e-12)
        torch.testing.assert_close(gradients[one], gradient, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_objective_is_pure(network, images, name):
    images = images_for(name, images[:3])
    rows, x = rows_of(network, 3), images.clone()
    kept = rows.clone()
    frozen = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.get_rng_state()
    first, second = (bind_objective(name, **OPTIONS)(bind(network, rows), x, DRAWS) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(x, images)
    assert torch.equal(rows, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, frozen[key]) for key, value in network.state_dict().items())


def test_binding_passes_an_objective_the_options_it_takes(network, images):
    bound = bind(network, rows_of(network, 3))
    options = {"entropy_form": "binary", "strong_augmentation": NO_STRONG}
    out = bind_objective("entropy", **options)(bound, images[:3], DRAWS)
    assert torch.equal(out, entropy(bound, images[:3], DRAWS, entropy_form="binary"))
    out = bind_objective("consistency", **options)(bound, images[:3], DRAWS)
    assert torch.equal(out, consistency(bound, images[:3], DRAWS, strong_augmentation=NO_STRONG))
    with pytest.raises(UserError, match="did you mean 'entropy'"):
        bind_objective("entropi")


def test_the_weak_views_are_those_of_the_paper():
    assert list(WEAK_VIEWS) == [
        "identity",
        "horizontal_flip",
        "vertical_flip",
        "rotate_90",
        "rotate_180",
        "rotate_270",
    ]
