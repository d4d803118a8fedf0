import copy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from plain_grata import adapt_stream, affine_parameters, with_batch_statistics
from strong import drawn_views
from tta_bench.methods.grata import LEARNING_RATE_FUNCTIONS, GraTa
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.objectives.base import OBJECTIVES, bind_objective
from tta_bench.objectives.consistency import consistency
from tta_bench.objectives.entropy import entropy
from tta_bench.ops.draws import Draws, ImageKey
from tta_bench.ops.gradients import gradient_cosine
from tta_bench.ops.views import Operation, StrongAugmentation

BETA = 1e-4
NOTHING = Operation(0, (1, 1))
NO_STRONG = StrongAugmentation(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, 0.5)
KEYS = [ImageKey(0, "B", f"image{k}") for k in range(8)]


@pytest.fixture(scope="module")
def network(unet):
    return AdaptableNetwork(unet)


@pytest.fixture(scope="module")
def small(small_net):
    return AdaptableNetwork(small_net)


@pytest.fixture
def objective(monkeypatch):
    """Register an objective for the duration of one test."""
    OBJECTIVES.names()
    return lambda name, function: monkeypatch.setitem(OBJECTIVES._items, name, function)


def start(network, streams=1, **options):
    method = GraTa(network, replace(default_options("grata"), **options))
    method.start(streams)
    return method


def run(method, images):
    return [method.step(images[k : k + 1], KEYS[k : k + 1]) for k in range(len(images))]


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


# The vector algebra, on objectives of theta alone


def toy(objective, matrix, *, auxiliary_scale=1.0, pseudo_scale=1.0, start_at=(1.0, 0.0), **options):
    """L_aux = |theta - a|^2 / 2 and L_pse = theta^T A theta / 2, as in G1 and G2."""
    a, matrix = vector(0, 1), torch.tensor(matrix, dtype=torch.float64)
    objective("toy_auxiliary", lambda net, x, draws: auxiliary_scale * ((net.theta - a) ** 2).sum(1) / 2)
    objective("toy_pseudo", lambda net, x, draws: pseudo_scale * ((net.theta @ matrix) * net.theta).sum(1) / 2)
    network = SimpleNamespace(source_theta=vector(*start_at), activation="sigmoid")
    method = start(network, auxiliary="toy_auxiliary", pseudo="toy_pseudo", **options)
    return method, {k: v[0] for k, v in method.adapt(torch.zeros(1, 3, 64, 64), Draws(KEYS[:1])).items()}


def test_one_update_of_the_toy_is_the_worked_example_g1(objective):
    method, diagnostics = toy(objective, [[2, 1], [1, 1]])
    assert diagnostics["loss_auxiliary"].item() == pytest.approx(1.0)
    assert diagnostics["loss_pseudo"].item() == pytest.approx(0.5)
    assert diagnostics["cosine"].item() == pytest.approx(0, abs=1e-12)
    assert diagnostics["lr"].item() == pytest.approx(2.5e-5, abs=1e-12)
    torch.testing.assert_close(method.theta(1), vector(1 - 2.5e-5, -2.5e-5)[None], rtol=0, atol=1e-12)


def test_without_the_perturbation_the_toy_s_cosine_is_another_g1(objective):
    _, diagnostics = toy(objective, [[2, 1], [1, 1]], perturbation=0.0)
    assert diagnostics["cosine"].item() == pytest.approx(0.3162278, abs=1e-7)
    assert diagnostics["lr"].item() == pytest.approx(BETA * 0.4331139, abs=1e-11)


def test_opposed_gradients_of_the_toy_give_a_small_step_g2(objective):
    method, diagnostics = toy(objective, [[2, 0], [0, 1]])
    assert diagnostics["cosine"].item() == pytest.approx(-0.7071068, abs=1e-7)
    assert diagnostics["lr"].item() == pytest.approx(2.144661e-6, abs=1e-12)
    torch.testing.assert_close(method.theta(1), vector(1, -2.1446608e-6)[None], rtol=0, atol=1e-12)


def test_the_square_function_of_the_cosine_g3():
    factors = LEARNING_RATE_FUNCTIONS["square"](vector(-1, 0, 0.5, 1))
    assert torch.equal(factors, vector(0, 0.25, 0.5625, 1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", (0, 0.5, 0.75, 1)),
        ("sigmoid", (0.26894142, 0.5, 0.62245933, 0.73105858)),
        ("relu", (0, 0, 0.5, 1)),
        ("softplus", (0.31326169, 0.69314718, 0.97407698, 1.31326169)),
        ("constant", (1, 1, 1, 1)),
        ("constant_quarter", (0.25, 0.25, 0.25, 0.25)),
    ],
)
def test_the_other_functions_of_the_cosine(name, expected):
    factors = LEARNING_RATE_FUNCTIONS[name](vector(-1, 0, 0.5, 1))
    torch.testing.assert_close(factors, vector(*expected), rtol=0, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-3, 7.0])
def test_the_cosine_ignores_the_scale_of_either_loss_g6(objective, scale):
    matrix = [[2, 1], [1, 3]]
    _, reference = toy(objective, matrix)
    _, scaled = toy(objective, matrix, pseudo_scale=scale)
    assert scaled["cosine"].item() == pytest.approx(reference["cosine"].item(), abs=1e-9)
    # The auxiliary loss also sets the size of the perturbation, so this one is taken without.
    _, reference = toy(objective, matrix, perturbation=0.0)
    _, scaled = toy(objective, matrix, perturbation=0.0, auxiliary_scale=scale)
    assert scaled["cosine"].item() == pytest.approx(reference["cosine"].item(), abs=1e-9)


def test_the_cosine_is_one_number_over_all_scalars_and_zero_for_a_zero_gradient():
    first, second = vector(3, 0, 0, 4, 0, 0).view(2, 3), vector(3, 4, 0, 0, 0, 0).view(2, 3)
    torch.testing.assert_close(gradient_cosine(first, second), vector(0.6, 0.0), rtol=0, atol=1e-12)
    assert gradient_cosine(first.flatten()[None], second.flatten()[None]).item() == pytest.approx(9 / 25, abs=1e-12)


@pytest.mark.parametrize("faulty", ["toy_auxiliary", "toy_pseudo"])
@pytest.mark.parametrize("rate", ["square", "constant"])
def test_a_loss_that_is_not_finite_skips_its_own_stream_only(objective, faulty, rate):
    def loss(name, net):
        bad = torch.tensor([0.0, float("nan"), 0.0]) if name == faulty else torch.zeros(3)
        return (net.theta**2).sum(1) * 0.25 + bad

    for name in ("toy_auxiliary", "toy_pseudo"):
        objective(name, lambda net, x, draws, name=name: loss(name, net))
    network = SimpleNamespace(source_theta=vector(1, 2), activation="sigmoid")
    method = start(network, 3, auxiliary="toy_auxiliary", pseudo="toy_pseudo", learning_rate_function=rate)
    skipped = method.adapt(torch.zeros(3, 3, 64, 64), Draws(KEYS[:3]))["skipped"]
    assert skipped.tolist() == [False, True, False]
    assert torch.equal(method.theta(3)[1], network.source_theta)
    assert (method.theta(3)[[0, 2]] != network.source_theta).all()


# On networks


def aligned_with_itself(objective, network, image, name, function, perturbation):
    objective("again", function)
    method = start(network, pseudo=name, auxiliary="again", perturbation=perturbation, learning_rate_function="square")
    return method, run(method, image)[0].diagnostics


@pytest.mark.parametrize(("name", "function"), [("entropy", entropy), ("consistency", consistency)])
def test_an_objective_is_aligned_with_itself_and_takes_a_plain_adam_step_g4(objective, small, images, name, function):
    method, diagnostics = aligned_with_itself(objective, small, images[:1], name, function, 0.0)
    assert diagnostics["cosine"][0] == pytest.approx(1, abs=1e-7)  # 1e-12 is added to a small product of norms
    assert diagnostics["lr"][0] == pytest.approx(BETA, abs=1e-12)
    parameter = torch.nn.Parameter(small.source_theta.clone())
    again = bind_objective("again", **vars(method.options))
    loss, gradient = method.gradient(lambda net: again(net, images[:1], Draws(KEYS[:1])), parameter[None])
    parameter.grad = gradient[0]
    torch.optim.Adam([parameter], lr=BETA).step()
    torch.testing.assert_close(method.theta(1)[0], parameter.detach(), rtol=0, atol=1e-12)
    assert diagnostics["loss_pseudo"][0] == diagnostics["loss_auxiliary"][0] == loss.item()


def test_one_step_ahead_an_objective_is_not_aligned_with_itself_g4(objective, small, images):
    _, diagnostics = aligned_with_itself(objective, small, images[:1], "entropy", entropy, 1.0)
    assert diagnostics["cosine"][0] < 1 - 1e-6


def test_identity_views_alone_teach_nothing_g5(objective, small, images):
    objective("itself", partial(consistency, views=("identity",)))
    method = start(small, pseudo="itself", strong_augmentation=NO_STRONG)
    diagnostics = run(method, images[:1])[0].diagnostics
    assert diagnostics["cosine"][0] == pytest.approx(0, abs=1e-3)
    torch.testing.assert_close(method.theta(1)[0], small.source_theta, rtol=0, atol=1e-9)


def test_theta_comes_back_to_the_bit_after_the_perturbation_g6(small, images):
    method = start(small, learning_rate=0.0)
    run(method, images[:3])
    assert torch.equal(method.theta(1)[0], small.source_theta)


def test_the_learning_rate_lies_between_zero_and_beta_and_is_that_of_the_cosine_g6(small, images):
    for result in run(start(small), images[:6]):
        rate, cosine = result.diagnostics["lr"][0], result.diagnostics["cosine"][0]
        assert 0 <= rate <= BETA
        assert rate == pytest.approx(BETA * (cosine + 1) ** 2 / 4, abs=1e-15)


def plain_consistency(model, images, perturbation, strong):
    """Rows 2 and 3 of Table 2 written with torch alone: Adam at beta on the consistency gradient."""
    model = with_batch_statistics(model)
    parameters = affine_parameters(model)
    optimizer = torch.optim.Adam(parameters, lr=BETA)
    for k, x in enumerate(images.split(1)):
        p = torch.sigmoid(model(x))
        ahead = torch.autograd.grad((-p * torch.log(p + 1e-6)).sum(1).mean(), parameters)
        saved = [q.detach().clone() for q in parameters]
        with torch.no_grad():
            for q, g in zip(parameters, ahead, strict=True):
                q -= perturbation * g
            views = [torch.rot90(torch.sigmoid(model(torch.rot90(x, r, (2, 3)))), -r, (2, 3)) for r in range(4)]
            views += [torch.sigmoid(model(x.flip(d))).flip(d) for d in (2, 3)]
        loss = F.binary_cross_entropy_with_logits(model(strong(x, k)), sum(views) / 6)
        for q, g, s in zip(parameters, torch.autograd.grad(loss, parameters), saved, strict=True):
            q.data.copy_(s)
            q.grad = g
        optimizer.step()
    return torch.cat([q.detach().flatten() for q in parameters])


def strong_view(x, k):
    """The strong view of image k, from the draws that the method makes."""
    return drawn_views(
        x, Draws(KEYS[k : k + 1]).generators("strong view"), default_options("grata").strong_augmentation
    )


@pytest.mark.parametrize("perturbation", [0.0, 1.0])
def test_a_constant_rate_gives_rows_2_and_3_of_table_2_g8(unet, network, images, perturbation):
    method = start(network, perturbation=perturbation, learning_rate_function="constant")
    for result in run(method, images[:2]):
        assert result.diagnostics["lr"] == [BETA]
    expected = plain_consistency(unet, images[:2], perturbation, strong_view)
    torch.testing.assert_close(method.theta(1)[0], expected, rtol=0, atol=1e-10)


def assert_equals_plain(records, results, tolerance):
    for record, result in zip(records, results, strict=True):
        for key in ("loss_auxiliary", "loss_pseudo", "cosine", "lr"):
            assert result.diagnostics[key][0] == pytest.approx(record[key], abs=tolerance), key
        torch.testing.assert_close(result.logits, record["logits"], rtol=0, atol=tolerance)


def test_grata_equals_the_plain_reference_without_strong_operations(unet, network, images):
    method = start(network, strong_augmentation=NO_STRONG)
    results = run(method, images[:4])
    records = adapt_stream(unet, images[:4].split(1), learning_rate=BETA)
    assert_equals_plain(records, results, 1e-9)
    torch.testing.assert_close(method.theta(1)[0], records[-1]["theta"], rtol=0, atol=1e-9)


def test_grata_equals_the_plain_reference_with_strong_operations(unet, network, images):
    counter = iter(range(4))
    records = adapt_stream(
        unet, images[:4].split(1), learning_rate=BETA, strong=lambda x: strong_view(x, next(counter))
    )
    method = start(network)
    assert_equals_plain(records, run(method, images[:4]), 1e-9)
    torch.testing.assert_close(method.theta(1)[0], records[-1]["theta"], rtol=0, atol=1e-9)


def test_the_authors_sgd_is_torch_s_with_nesterov_s_momentum(unet, network, images):
    options = {"optimizer": "sgd", "momentum": 0.99, "nesterov": True, "learning_rate": 1e-2}
    method = start(network, **options, strong_augmentation=NO_STRONG)
    results = run(method, images[:2])
    sgd = partial(torch.optim.SGD, momentum=0.99, nesterov=True)
    records = adapt_stream(unet, images[:2].split(1), learning_rate=1e-2, optimizer=sgd)
    assert_equals_plain(records, results, 1e-8)
    torch.testing.assert_close(method.theta(1)[0], records[-1]["theta"], rtol=0, atol=1e-9)


def test_streams_side_by_side_have_a_nesterov_momentum_each(small, images):
    options = {"optimizer": "sgd", "momentum": 0.99, "nesterov": True, "learning_rate": 1e-2}
    together = start(small, 2, **options)
    for k in range(3):
        together.step(images[[k, 6 + k]], [ImageKey(0, domain, f"image{k}") for domain in "BC"])
    for row, domain in enumerate("BC"):
        alone = start(small, **options)
        for k in range(3):
            alone.step(images[6 * row + k][None], [ImageKey(0, domain, f"image{k}")])
        torch.testing.assert_close(together.theta(2)[row], alone.theta(1)[0], rtol=0, atol=1e-10)


def test_float32_cosines_agree_with_the_plain_reference_in_float64(unet, images):
    single = AdaptableNetwork(copy.deepcopy(unet).float())
    results = run(start(single, strong_augmentation=NO_STRONG), images[:4].float())
    records = adapt_stream(unet, images[:4].split(1), learning_rate=BETA)
    for record, result in zip(records, results, strict=True):
        assert result.logits.dtype == torch.float32
        assert result.diagnostics["cosine"][0] == pytest.approx(record["cosine"], abs=5e-3)
        assert result.diagnostics["loss_pseudo"][0] == pytest.approx(record["loss_pseudo"], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pseudo": "entropy"}, "both 'entropy'"),
        ({"perturbation": -1.0}, "perturbation"),
        ({"perturbation": float("inf")}, "perturbation"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"nesterov": True, "momentum": 0.9}, "nesterov=true needs optimizer=sgd"),
        ({"nesterov": True, "optimizer": "sgd"}, "nesterov=true needs .* momentum above 0"),
    ],
)
def test_impossible_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        replace(default_options("grata"), **options)
