from dataclasses import replace

import pytest
import torch

from plain_grata import affine_parameters, with_batch_statistics
from tta_bench.methods.base import Protocol
from tta_bench.methods.bn_only import BatchNormOnly
from tta_bench.methods.options import default_options
from tta_bench.methods.tent import Tent
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.objectives.base import BoundNetwork
from tta_bench.objectives.entropy import entropy, mean_entropy
from tta_bench.ops.draws import Draws, ImageKey

KEYS = [ImageKey(0, "B", f"image{k}") for k in range(8)]


@pytest.fixture(scope="module")
def network(unet):
    return AdaptableNetwork(unet)


def start(network, protocol=None, **options):
    method = Tent(network, replace(default_options("tent"), **options), protocol)
    method.start(1)
    return method


def run(method, images):
    return [method.step(images[k : k + 1], KEYS[k : k + 1]) for k in range(len(images))]


def bn_only(network, images):
    return [result.logits for result in run(BatchNormOnly(network), images)]


def loss_now(method, image, form="positive"):
    bound = BoundNetwork(method.network, method.theta(1), method.statistics)
    with torch.no_grad():
        return entropy(bound, image, Draws(KEYS[:1]), entropy_form=form).item()


@pytest.mark.parametrize("form", ["positive", "binary"])
def test_tent_is_torch_s_adam_on_the_entropy_of_torch_s_model(unet, network, images, form):
    model = with_batch_statistics(unet)
    parameters = affine_parameters(model)
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    results = run(start(network, learning_rate=1e-3, entropy_form=form), images[:3])
    for k, result in enumerate(results):
        p = torch.sigmoid(model(images[k : k + 1]))
        positive = (-p * torch.log(p + 1e-6)).sum(1).mean()
        loss = positive if form == "positive" else (-p * p.log() - (1 - p) * (1 - p).log()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert result.diagnostics["loss_entropy"][0] == pytest.approx(loss.item(), abs=1e-9)
        with torch.no_grad():
            torch.testing.assert_close(result.logits, model(images[k : k + 1]), rtol=0, atol=1e-8)


def test_a_learning_rate_of_zero_is_bn_only_t2(network, images):
    method = start(network, learning_rate=0.0)
    for result, expected in zip(run(method, images[:3]), bn_only(network, images[:3]), strict=True):
        torch.testing.assert_close(result.logits, expected, rtol=0, atol=1e-12)
    assert torch.equal(method.theta(1)[0], network.source_theta)


def test_the_prediction_before_the_first_update_is_bn_only_and_differs_from_the_one_after_t3(network, images):
    before = run(start(network, Protocol(predict="before"), learning_rate=1e-3), images[:2])
    after = run(start(network, learning_rate=1e-3), images[:2])
    torch.testing.assert_close(before[0].logits, bn_only(network, images[:1])[0], rtol=0, atol=1e-12)
    for first, second in zip(before, after, strict=True):
        assert (first.logits - second.logits).abs().max() > 1e-4


def test_the_first_adam_step_moves_every_scalar_by_the_learning_rate_t4(network, images):
    method = start(network, learning_rate=1e-4)
    _, gradient = method.gradient(lambda net: mean_entropy(net(images[:1]), "positive", "sigmoid"), method.theta(1))
    run(method, images[:1])
    moved = method.theta(1) - network.source_theta
    clear = gradient.abs() > 1.1e-5  # far above Adam's eps of 1e-8
    assert clear.sum() > 1000
    torch.testing.assert_close(moved[clear], -1e-4 * gradient[clear].sign(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("form", ["positive", "binary"])
def test_a_small_gradient_step_lowers_the_entropy_of_the_same_image_t5(network, images, form):
    method = start(network, learning_rate=1e-3, optimizer="sgd", entropy_form=form)
    before = loss_now(method, images[:1], form)
    run(method, images[:1])
    assert loss_now(method, images[:1], form) < before


@pytest.mark.parametrize("options", [{"learning_rate": -1e-4}, {"momentum": 1.0}, {"momentum": -0.1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        replace(default_options("tent"), **options)
