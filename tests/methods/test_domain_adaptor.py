import math
from dataclasses import replace

import pytest
import torch

from tta_bench.methods.base import Protocol
from tta_bench.methods.domain_adaptor import DomainAdaptor, generalised_entropy
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import MixedStatistics, RectifiedStatistics, SourceStatistics, rectification
from tta_bench.ops.draws import Draws, ImageKey

KEYS = [ImageKey(0, "B", f"image{k}") for k in range(12)]
IMAGE = MixedStatistics(0.0, unbiased=True)


@pytest.fixture(scope="module")
def network(small_net):
    return AdaptableNetwork(small_net)


def start(network, protocol=None, streams=1, **options):
    method = DomainAdaptor(network, replace(default_options("domain_adaptor"), **options), protocol)
    method.start(streams)
    return method


def run(method, images):
    return [method.step(images[k : k + 1], KEYS[k : k + 1]) for k in range(len(images))]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def some_theta(network, rows):
    """Affine parameters away from the source model's, another row for every stream."""
    return network.source_theta + 0.1 * random(rows, network.source_theta.numel(), seed=3)


def rectified_statistics(network, rows, source_weight):
    shape = (rows, network.source_statistics[0].numel())
    return RectifiedStatistics(source_weight, torch.ones(shape).double(), torch.zeros(shape).double())


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("source_weight", [0.0, 0.3, 0.5, 1.0])
def test_the_transform_has_the_output_of_the_mixture_a1(network, images, source_weight, views):
    theta = some_theta(network, 2)
    statistics = rectified_statistics(network, 2 * views, source_weight)
    expected = network(images[: 2 * views], theta, MixedStatistics(source_weight, unbiased=True))
    out = network(images[: 2 * views], theta, statistics)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)


def test_the_transformed_parameters_with_the_image_s_statistics_have_the_output_of_the_mixture_a1(network, images):
    method = start(network, streams=2, learning_rate=0.0)
    method.state.theta[:] = some_theta(network, 2)
    result = method.step(images[:2], KEYS[:2])
    expected = network(images[:2], some_theta(network, 2), MixedStatistics(0.5, unbiased=True))
    torch.testing.assert_close(result.logits, expected, rtol=0, atol=1e-10)


def adaptive_weight(x, source_mean, source_variance):
    """The paper's weight of the source statistics, from features ``[B, C, H, W]`` of a batch."""
    variance, mean = torch.var_mean(x, dim=(0, 2, 3))
    image_variance, image_mean = torch.var_mean(x, dim=(2, 3))

    def distance(mean_a, variance_a, mean_b, variance_b):
        return ((mean_a - mean_b) ** 2).mean(-1) + ((variance_a.sqrt() - variance_b.sqrt()) ** 2).mean(-1)

    to_batch = distance(image_mean, image_variance, mean, variance)
    to_source = distance(image_mean, image_variance, source_mean, source_variance)
    between = distance(mean, variance, source_mean, source_variance)
    return (1 - between / (between + to_source + to_batch)).clamp(0, 1).mean()


@pytest.mark.parametrize("seed", range(3))
def test_the_adaptive_weight_of_one_image_is_always_a_half_a2(seed):
    x = random(4, 6, 5, 5, seed=seed) * (1 + random(4, 6, 1, 1, seed=seed + 9).abs()) + random(4, 6, 1, 1, seed=seed)
    source = random(6, seed=seed + 20), 0.5 + random(6, seed=seed + 30).abs()
    assert adaptive_weight(x[:1], *source).item() == pytest.approx(0.5, abs=1e-6)
    assert default_options("domain_adaptor").source_weight == 0.5
    for count in (2, 4):
        assert abs(adaptive_weight(x[:count], *source).item() - 0.5) > 0.01


def test_without_a_step_the_parameters_come_back_exactly_a3(network, images):
    method = start(network, learning_rate=0.0)
    for result, image in zip(run(method, images[:10]), images[:10], strict=True):
        assert torch.equal(method.theta(1)[0], network.source_theta)
        expected = network(image[None], method.theta(1), MixedStatistics(0.5, unbiased=True))
        torch.testing.assert_close(result.logits, expected, rtol=0, atol=1e-10)


def test_the_transform_of_the_worked_example_a4():
    scale, shift = rectification(vector(2)[None], vector(3)[None], vector(0), vector(1), 0.5, eps=0.0)
    weight, bias = 1.0, 0.0
    assert scale.item() * weight == pytest.approx(1.2247449, abs=1e-7)
    assert bias + shift.item() * weight == pytest.approx(0.7071068, abs=1e-7)


def test_the_gradient_of_the_literal_loss_only_grows_the_logits_a5():
    logits = 4 * random(2, 2, 6, 6)
    logits.requires_grad_()
    losses = generalised_entropy(logits, "pixel")
    torch.testing.assert_close(losses, 1.268695 * logits.detach().square().flatten(1).mean(1), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(losses.sum() * logits[0].numel(), logits)
    torch.testing.assert_close(gradient, -0.2211810 * logits.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("temperature", ["image", "pixel"])
def test_logits_of_zero_have_a_finite_loss_and_gradient(temperature):
    logits = torch.zeros(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    loss = generalised_entropy(logits, temperature)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all()
    assert (gradient == 0).all()


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_loss_grows_with_the_square_of_the_logits_a6(factor):
    logits = 4 * random(3, 2, 8, 8) - 1
    expected = factor**2 * generalised_entropy(logits, "image")
    torch.testing.assert_close(generalised_entropy(factor * logits, "image"), expected, rtol=1e-12, atol=0)


def test_the_temperature_is_a_constant_of_each_class_and_image():
    logits = random(2, 2, 8, 8) * vector(1, 5)[None, :, None, None]
    logits.requires_grad_()
    losses = generalised_entropy(logits, "image")
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    for image in range(2):
        total = 0
        for channel in range(2):
            s = logits[image, channel].detach()
            t = 2 * s.std()
            p = torch.sigmoid(s / t)
            entropy = -p * p.log() - (1 - p) * (1 - p).log()
            total += (t**2 * entropy).mean() / 2
            expected = -s * p * (1 - p) / 128  # T^2 * dH/ds, with dH/dz = -z p (1 - p) and z = s / T
            torch.testing.assert_close(gradient[image, channel], expected, rtol=0, atol=1e-12)
        assert losses[image].item() == pytest.approx(total.item(), abs=1e-12)


@pytest.mark.parametrize(("source_weight", "statistics"), [(1.0, SourceStatistics()), (0.0, IMAGE)])
def test_the_ends_of_the_mixture_a7(network, images, source_weight, statistics):
    method = start(network, source_weight=source_weight, learning_rate=0.0)
    for k, result in enumerate(run(method, images[:2])):
        expected = network(images[k : k + 1], network.source_theta[None], statistics)
        torch.testing.assert_close(result.logits, expected, rtol=0, atol=1e-10)


def test_the_gradient_is_that_of_the_rectified_parameters(network, images):
    """Against a leaf of rectified parameters, normalised by the image's own statistics."""
    method = start(network, streams=2)
    method.state.theta[:] = theta = some_theta(network, 2)
    statistics = rectified_statistics(network, 2, 0.5)

    def objective(bound):
        return generalised_entropy(bound(images[:2]), "image")

    _, gradient = method.gradient(objective, theta, statistics)
    transform = method._rectification(statistics)
    _, expected = method.gradient(objective, transform.apply(theta), IMAGE)
    torch.testing.assert_close(transform.gradient(gradient), expected, rtol=0, atol=1e-9)
    assert (gradient - expected).norm() > 1e-2 * expected.norm()
    torch.testing.assert_close(transform.undo(transform.apply(theta)), theta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_every_image_is_an_optimiser_step_in_its_own_rectified_parameters(network, images, optimizer):
    options = {"learning_rate": 1e-3, "optimizer": optimizer, "momentum": 0.9 * (optimizer == "sgd")}
    method = start(network, **options)
    theta = network.source_theta[None].clone()
    parameter = torch.nn.Parameter(theta.clone())
    sgd = {"momentum": 0.9} if optimizer == "sgd" else {}
    torch_optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]([parameter], lr=1e-3, **sgd)
    for k, result in enumerate(run(method, images[:3])):
        image = images[k : k + 1]
        statistics = rectified_statistics(network, 1, 0.5)
        network(image, theta, statistics)
        transform = method._rectification(statistics)
        parameter.data.copy_(transform.apply(theta))
        loss = generalised_entropy(network(image, parameter, IMAGE), "image")
        torch_optimizer.zero_grad()
        loss.sum().backward()
        torch_optimizer.step()
        with torch.no_grad():
            torch.testing.assert_close(result.logits, network(image, parameter, IMAGE), rtol=0, atol=1e-9)
        theta = transform.undo(parameter.detach().clone())
        assert result.diagnostics["loss_gem"][0] == pytest.approx(loss.item(), abs=1e-9)
    torch.testing.assert_close(method.theta(1), theta, rtol=0, atol=1e-9)
    assert (theta - network.source_theta).abs().max() > 1e-5


def test_before_the_update_an_image_is_predicted_with_a_mixture_of_its_own(network, images):
    method = start(network, Protocol(predict="before"), learning_rate=1e-3)
    run(method, images[:2])
    theta = method.theta(1).clone()
    result = method.step(images[2:3], KEYS[2:3])
    expected = network(images[2:3], theta, MixedStatistics(0.5, unbiased=True))
    torch.testing.assert_close(result.logits, expected, rtol=0, atol=1e-12)


def test_a_faulty_image_leaves_its_stream_s_parameters_and_the_others_transform(network, images):
    method, healthy = (start(network, streams=2, learning_rate=1e-3) for _ in range(2))
    for each in (method, healthy):
        each.adapt(images[:2], Draws(KEYS[:2]))
    theta = method.theta(2).clone()
    faulty = images[2:4].clone()
    faulty[1, 0, 0, 0] = math.nan
    healthy.step(images[2:4], KEYS[2:4])
    result = method.step(faulty, KEYS[2:4])
    assert result.diagnostics["skipped"] == [False, True]
    assert torch.equal(method.theta(2)[1], theta[1])
    assert torch.equal(method.theta(2)[0], healthy.theta(2)[0])
    assert result.logits[0].isfinite().all()


def test_every_adapted_layer_has_a_transform_although_the_source_model_has_branches(network, images):
    assert any(name.startswith("branches.") for name in network._all_layers)
    method = start(network, learning_rate=0.0)
    run(method, images[:1])
    assert (method.rectification.apply(method.theta(1)) != method.theta(1)).all()


def test_the_official_preset():
    options = default_options("domain_adaptor", preset="official")
    assert options == replace(default_options("domain_adaptor"), learning_rate=1e-3, optimizer="sgd", momentum=0.9)


@pytest.mark.parametrize("source_weight", [-0.1, 1.1, math.nan])
def test_impossible_options_are_refused(source_weight):
    with pytest.raises(ValueError, match="source_weight"):
        replace(default_options("domain_adaptor"), source_weight=source_weight)
