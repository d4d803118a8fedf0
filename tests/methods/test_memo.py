import copy
import math
from dataclasses import replace

import pytest
import torch

from plain_grata import affine_parameters, all_parameters
from plain_statistics import mixed, with_statistics
from small_networks import independent
from tta_bench.methods.base import Protocol
from tta_bench.methods.memo import MEMO, marginal_entropy
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import MixedStatistics
from tta_bench.objectives.base import BoundNetwork
from tta_bench.objectives.entropy import entropy
from tta_bench.ops.draws import Draws, ImageKey
from tta_bench.ops.probabilities import entropies

KEYS = [ImageKey(0, "B", f"image{k}") for k in range(8)]
RATE = 0.1
ORDERS = [(0, 1, 2, 3), (3, 1, 0, 2)]


@pytest.fixture(scope="module")
def network(small_net):
    return AdaptableNetwork(small_net)


def start(network, protocol=None, **options):
    method = MEMO(network, replace(default_options("memo"), **{"learning_rate": RATE, **options}), protocol)
    method.start(1)
    return method


def run(method, images, order=None):
    order = range(len(images)) if order is None else order
    return {k: method.step(images[k : k + 1], KEYS[k : k + 1]) for k in order}


def plain_memo(model, x, prior, parameters_of, make_optimizer):
    """A copy of the torch model for one image: loss and logits after one step."""
    fixed = mixed(prior / (prior + 1), correction=1)
    model = with_statistics(model, lambda x, layer: fixed(x.detach(), layer)).requires_grad_()
    optimizer = make_optimizer(parameters_of(model), lr=RATE)
    p = sum(torch.rot90(torch.sigmoid(model(torch.rot90(x, k, (2, 3)))), -k, (2, 3)) for k in range(4))
    p = (p + sum(torch.sigmoid(model(x.flip(d))).flip(d) for d in (2, 3))) / 6
    loss = (-p * p.log() - (1 - p) * (1 - p).log()).mean()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        return loss.item(), model(x)


@pytest.mark.parametrize(("parameters", "parameters_of"), [("all", all_parameters), ("affine", affine_parameters)])
@pytest.mark.parametrize(("optimizer", "prior"), [("sgd", 16.0), ("sgd", 1.0), ("adam", 16.0)])
def test_memo_is_one_step_of_a_copy_of_the_torch_model_for_every_image(
    small_net, network, images, parameters, parameters_of, optimizer, prior
):
    make_optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    method = start(network, parameters=parameters, optimizer=optimizer, prior=prior)
    for k, result in run(method, images[:3]).items():
        loss, logits = plain_memo(small_net, images[k : k + 1], prior, parameters_of, make_optimizer)
        assert result.diagnostics["loss_marginal_entropy"][0] == pytest.approx(loss, abs=1e-9)
        torch.testing.assert_close(result.logits, logits, rtol=0, atol=1e-7)


def bound(network, theta):
    return BoundNetwork(network, theta, MixedStatistics(16 / 17, unbiased=True, differentiable=False))


def loss_and_gradient(network, losses_of):
    theta = network.source_parameters.repeat(2, 1).requires_grad_()
    losses = losses_of(bound(network, theta))
    return losses, torch.autograd.grad(losses.sum(), theta)[0]


def test_one_identity_view_is_the_binary_entropy_m1(network, images):
    x = images[:2]
    one = loss_and_gradient(network, lambda net: marginal_entropy(net, x, ["identity"]))
    expected = loss_and_gradient(network, lambda net: entropy(net, x, Draws(KEYS[:2]), entropy_form="binary"))
    for first, second in zip(one, expected, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


def test_the_entropy_is_that_of_the_mean_probability_m2():
    logits = torch.tensor([math.log(9), -math.log(9)], dtype=torch.float64)[:, None, None, None].expand(2, 2, 4, 4)
    loss = marginal_entropy(independent(lambda views: logits), torch.zeros(1, 3, 4, 4), ["identity", "horizontal_flip"])
    assert loss.tolist() == [pytest.approx(0.6931472, abs=1e-7)]
    assert float(entropies(logits, "sigmoid").mean()) == pytest.approx(0.3250830, abs=1e-7)


def test_views_are_mapped_back_before_they_are_averaged(images):
    @independent
    def first_channel(views):
        return 40 * views[:, :1] - 20  # moves with the image, so that all views agree

    expected = entropies(first_channel(images[:2]), "sigmoid").flatten(1).mean(1)
    torch.testing.assert_close(marginal_entropy(first_channel, images[:2]), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("options", [{}, {"optimizer": "adam", "learning_rate": 1e-3}, {"momentum": 0.9}])
def test_the_prediction_of_an_image_does_not_depend_on_history_m3(network, images, order, options):
    results = run(start(network, **options), images[:4], order)
    for k, result in results.items():
        alone = run(start(network, **options), images[:4], [k])[k]
        assert torch.equal(result.logits, alone.logits)
        assert result.diagnostics == alone.diagnostics


def test_identical_views_give_the_gradient_of_one_m4(network, images):
    one, three = (
        loss_and_gradient(network, lambda net, n=n: marginal_entropy(net, images[:2], ["identity"] * n)) for n in (1, 3)
    )
    for first, second in zip(one, three, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_predictions_have_a_finite_gradient(dtype):
    logits = torch.tensor([-1000.0, -200, -50, 0, 50, 200, 1000], dtype=dtype, requires_grad=True)
    maps = logits[None, None, None].expand(2, 1, 7, 7)
    loss = marginal_entropy(independent(lambda views: maps), torch.zeros(1, 3, 7, 7), ["identity"] * 2)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.tolist() == [pytest.approx(math.log(2) / 7, abs=1e-6)]
    assert gradient.isfinite().all()


def test_every_reset_rule_is_that_of_every_image(network, images):
    for episodic in (False, True):
        method = start(network, Protocol(episodic=episodic))
        assert method.protocol == Protocol(episodic=True)
        torch.testing.assert_close(run(method, images[:2])[1].logits, run(start(network), images[:2], [1])[1].logits)


def test_before_the_update_the_source_model_predicts_with_mixed_statistics(network, images):
    results = run(start(network, Protocol(predict="before")), images[:2])
    for k, result in results.items():
        expected = network(images[k : k + 1], network.source_theta[None], MixedStatistics(16 / 17, unbiased=True))
        torch.testing.assert_close(result.logits, expected, rtol=0, atol=1e-12)


def test_two_updates_of_an_image_build_on_each_other(network, images):
    once, twice = (run(start(network, Protocol(steps=n)), images[:1])[0] for n in (1, 2))
    losses = [result.diagnostics["loss_marginal_entropy"][0] for result in (once, twice)]
    assert losses[1] < losses[0]


def test_only_what_is_asked_for_is_adapted(small_net, network, images):
    sizes = {"all": sum(p.numel() for p in all_parameters(small_net)), "affine": network.source_theta.numel()}
    before = copy.deepcopy(network.state_dict())
    for parameters, size in sizes.items():
        method = start(network, parameters=parameters)
        run(method, images[:2])
        assert method.theta(1).shape == (1, size)
        assert not torch.equal(method.theta(1)[0], method.source_theta)
        ending = "other parameters" if parameters == "all" else "affine scalars, and these alone"
        assert method.describe().endswith(ending)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("prior", [-1.0, float("inf"), float("nan")])
def test_impossible_options_are_refused(prior):
    with pytest.raises(ValueError, match="prior"):
        replace(default_options("memo"), prior=prior)
