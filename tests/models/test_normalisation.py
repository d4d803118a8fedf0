"""Normalisation by statistics of the source, of the image, or of both, against torch and the formula itself."""

import copy

import pytest
import torch
import torch.nn.functional as F
from normalised import CHANNELS, LAYOUTS, make_batch, on_values, random, running, torch_batch_norm, written_out
from torch import nn

from tta_bench.models.normalisation import (
    AlignedStatistics,
    BatchStatistics,
    MedianStatistics,
    MixedStatistics,
    RectifiedStatistics,
    SourceStatistics,
)
from tta_bench.models.normalisation_layer import NormalisationLayer
from tta_bench.ops.geometry import stacked, unstacked

POLICIES = {
    "source": SourceStatistics,
    "batch": BatchStatistics,
    "mixed": lambda: MixedStatistics(0.7),
    "mixed unbiased": lambda: MixedStatistics(0.3, unbiased=True),
    "median": MedianStatistics,
}


def assert_per_image(out, x, weight, bias, statistics_of_image, eps):
    """Compare every image with the formula, its stream's affine row and the statistics given for it."""
    views = len(x) // len(weight)
    for index, image in enumerate(x):
        mean, variance = statistics_of_image(image)
        expected = written_out(image, mean, variance, weight[index // views], bias[index // views], eps)
        torch.testing.assert_close(out[index], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("streams", "views"), LAYOUTS)
def test_source_statistics_equal_batch_norm_in_eval_mode(layer, batch_norm, streams, views):
    x, weight, bias = make_batch(streams, views)
    out = SourceStatistics().normalise(x, weight, bias, layer)
    for s in range(streams):
        rows = slice(s * views, (s + 1) * views)
        expected = torch_batch_norm(batch_norm, weight[s], bias[s], training=False)(x[rows])
        torch.testing.assert_close(out[rows], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("streams", "views"), LAYOUTS)
def test_batch_statistics_equal_batch_norm_in_train_mode_on_each_image_alone(layer, batch_norm, streams, views):
    x, weight, bias = make_batch(streams, views)
    out = BatchStatistics().normalise(x, weight, bias, layer)
    for index, image in enumerate(x):
        s = index // views
        expected = torch_batch_norm(batch_norm, weight[s], bias[s], training=True)(image[None])
        torch.testing.assert_close(out[index], expected[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("streams", "views"), LAYOUTS)
def test_pooled_views_equal_batch_norm_in_train_mode_on_the_views_of_a_stream(layer, batch_norm, streams, views):
    x, weight, bias = make_batch(streams, views)
    out = running(streams, 0.1).normalise(x, weight, bias, layer)
    for s in range(streams):
        rows = slice(s * views, (s + 1) * views)
        expected = torch_batch_norm(batch_norm, weight[s], bias[s], training=True)(x[rows])
        torch.testing.assert_close(out[rows], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("source_weight", [0.0, 0.25, 16 / 17, 1.0])
@pytest.mark.parametrize(("streams", "views"), LAYOUTS)
def test_mixed_statistics_are_linear_in_the_source_weight(layer, streams, views, source_weight, unbiased):
    x, weight, bias = make_batch(streams, views)
    out = MixedStatistics(source_weight, unbiased).normalise(x, weight, bias, layer)

    def mixed(image):
        mean, variance = image.mean((1, 2)), image.var((1, 2), correction=int(unbiased))
        w = source_weight
        return w * layer.source_mean + (1 - w) * mean, w * layer.source_variance + (1 - w) * variance

    assert_per_image(out, x, weight, bias, mixed, layer.eps)


def test_mixed_with_all_weight_on_one_side_is_that_side_bn4(layer):
    x, weight, bias = make_batch(2, 3)
    source = SourceStatistics().normalise(x, weight, bias, layer)
    batch = BatchStatistics().normalise(x, weight, bias, layer)
    torch.testing.assert_close(MixedStatistics(1.0).normalise(x, weight, bias, layer), source, rtol=0, atol=1e-12)
    torch.testing.assert_close(MixedStatistics(0.0).normalise(x, weight, bias, layer), batch, rtol=0, atol=1e-12)
    # Unbiased: only the factor n / (n - 1) of the variance differs.
    unbiased = MixedStatistics(0.0, unbiased=True).normalise(x, weight, bias, layer)
    assert 1e-3 < (unbiased - batch).abs().max() < 0.1


def test_mixed_statistics_that_are_not_differentiable_count_as_constants(layer):
    x, weight, bias = make_batch(2, 3)
    x.requires_grad_()
    free, fixed = (
        MixedStatistics(0.7, differentiable=flag).normalise(x, weight, bias, layer) for flag in (True, False)
    )
    assert torch.equal(free, fixed)
    variance = torch.lerp(x.var((2, 3), correction=0), layer.source_variance.expand(6, -1), 0.7)
    slope = weight.repeat_interleave(3, dim=0) / torch.sqrt(variance + layer.eps)
    (gradient,) = torch.autograd.grad(fixed.square().sum() / 2, x)
    torch.testing.assert_close(gradient, fixed * slope[:, :, None, None], rtol=0, atol=1e-12)
    assert (torch.autograd.grad(free.square().sum() / 2, x)[0] - gradient).abs().max() > 1e-3


@pytest.mark.parametrize("source_weight", [-0.1, 1.1])
def test_a_source_weight_outside_0_to_1_is_refused(source_weight):
    with pytest.raises(ValueError, match="source_weight"):
        MixedStatistics(source_weight)


@pytest.mark.parametrize("size", [(6, 5), (5, 5)])
@pytest.mark.parametrize(("streams", "views"), LAYOUTS)
def test_median_statistics_use_the_lower_median_and_the_mean_square_deviation_from_it(layer, streams, views, size):
    x, weight, bias = make_batch(streams, views, *size)
    out = MedianStatistics().normalise(x, weight, bias, layer)

    def median(image):
        values = image.flatten(1).sort(dim=1).values
        middle = values[:, (values.shape[1] - 1) // 2]
        return middle, ((values - middle[:, None]) ** 2).mean(1)

    assert_per_image(out, x, weight, bias, median, layer.eps)


@pytest.mark.parametrize(("values", "median", "variance"), [([0, 1, 2, 3, 10], 2, 14.0), ([1, 2, 3, 10], 2, 16.5)])
def test_median_and_variance_of_the_medbn_examples_bn8(values, median, variance):
    expected = (torch.tensor(values, dtype=torch.float64) - median) / (variance + 1e-5) ** 0.5
    torch.testing.assert_close(on_values(MedianStatistics(), values), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("policy", [MedianStatistics(), BatchStatistics(), MixedStatistics(0.0)])
def test_a_constant_channel_becomes_the_bias_bn9(policy):
    out = on_values(policy, [0.7] * 8, weight=1.5, bias=-0.25)
    torch.testing.assert_close(out, torch.full_like(out, -0.25), rtol=0, atol=1e-9)


def test_a_half_rectified_gaussian_has_median_0_and_a_positive_mean_afterwards_bn10():
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = F.relu(values - values.sort().values[50_000])  # exactly half of them and one are 0
    normalised = on_values(MedianStatistics(), values)
    assert (normalised[values == 0] == 0).all()
    assert float(normalised.mean()) == pytest.approx(0.56, abs=0.01)
    assert float(on_values(BatchStatistics(), values).mean()) == pytest.approx(0, abs=1e-9)


def test_the_median_resists_outliers_the_variance_does_not():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = values.clone()
    x[:1000] = 1e3
    median = x.view(1, 1, -1).flatten(2).median(dim=2).values.item()
    spread = on_values(MedianStatistics(), x)
    assert median == pytest.approx(0.45, abs=0.06)
    # Slope of the normalisation: 1 / sqrt(variance), which is about 2.5e5.
    slope = float((spread[1500] - spread[2500]) / (x[1500] - x[2500]))
    assert slope**-2 == pytest.approx(2.5e5, rel=0.01)


@pytest.mark.parametrize("policy", [BatchStatistics(), MedianStatistics()])
def test_statistics_of_the_image_undo_any_gain_and_offset_bn3(layer, policy):
    x, weight, bias = make_batch(2, 3)
    x = 5 * x  # a variance far above eps
    gain, offset = torch.tensor([0.5, 2.0, 10.0])[:, None, None], torch.tensor([3.0, -1.0, 0.2])[:, None, None]
    shifted = policy.normalise(x * gain + offset, weight, bias, layer)
    assert (shifted - policy.normalise(x, weight, bias, layer)).abs().max() < 1e-4
    assert (SourceStatistics().normalise(x * gain + offset, weight, bias, layer) - shifted).abs().max() > 0.1


def test_batch_statistics_leave_mean_0_and_variance_1(layer):
    x, weight, bias = make_batch(2, 3)
    out = BatchStatistics().normalise(x, torch.ones_like(weight), torch.zeros_like(bias), layer)
    variance = x.var((2, 3), correction=0)
    assert out.mean((2, 3)).abs().max() < 1e-12
    torch.testing.assert_close(out.var((2, 3), correction=0), variance / (variance + layer.eps))


@pytest.mark.parametrize("name", POLICIES)
def test_train_and_eval_mode_make_no_difference_bn11(layer, name):
    x, weight, bias = make_batch(2, 3)
    policy = POLICIES[name]()
    trained = policy.normalise(x, weight, bias, layer.train())
    assert torch.equal(policy.normalise(x, weight, bias, layer.eval()), trained)


@pytest.mark.parametrize("name", [*POLICIES, "running", "running with momentum"])
def test_the_source_statistics_are_never_written_to(layer, name):
    momentum = 0.9 if name == "running with momentum" else None
    policy = POLICIES[name]() if name in POLICIES else running(2, momentum)
    before = copy.deepcopy(layer.state_dict())
    x, weight, bias = make_batch(2, 3)
    kept = x.clone()
    policy.normalise(x, weight, bias, layer)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", POLICIES)
def test_gradients_flow_through_the_statistics(layer, name):
    x, weight, bias = make_batch(2, 2, 3, 3)
    inputs = [v.requires_grad_() for v in (x, weight, bias)]
    assert torch.autograd.gradcheck(lambda *v: POLICIES[name]().normalise(*v, layer), inputs)


@pytest.mark.parametrize(("streams", "views"), LAYOUTS)
def test_gradients_equal_those_of_batch_norm_in_train_mode(layer, batch_norm, streams, views):
    x, weight, bias = (v.requires_grad_() for v in make_batch(streams, views))
    upstream = random(*x.shape, seed=30)
    out = BatchStatistics().normalise(x, weight, bias, layer)
    gradients = torch.autograd.grad(out, (x, weight, bias), upstream)
    expected_weight, expected_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    for index in range(len(x)):
        s = index // views
        module = torch_batch_norm(batch_norm, weight[s].detach(), bias[s].detach(), training=True)
        image = x[index : index + 1].detach().requires_grad_()
        of_image, of_weight, of_bias = torch.autograd.grad(
            module(image), (image, module.weight, module.bias), upstream[index : index + 1]
        )
        torch.testing.assert_close(gradients[0][index : index + 1], of_image, rtol=0, atol=1e-11)
        expected_weight[s] += of_weight
        expected_bias[s] += of_bias
    torch.testing.assert_close(gradients[1], expected_weight, rtol=0, atol=1e-11)
    torch.testing.assert_close(gradients[2], expected_bias, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", POLICIES)
def test_float32_agrees_with_float64(layer, name):
    x, weight, bias = make_batch(2, 3)
    expected = POLICIES[name]().normalise(x, weight, bias, layer)
    single = copy.deepcopy(layer).float()
    out = POLICIES[name]().normalise(x.float(), weight.float(), bias.float(), single)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)


def test_a_layer_without_rows_uses_source_statistics_and_affine(layer, batch_norm):
    x, _, _ = make_batch(2, 3)
    torch.testing.assert_close(layer(x), batch_norm.eval()(x), rtol=0, atol=1e-12)


def test_a_layer_that_lacks_running_statistics_is_refused():
    with pytest.raises(ValueError, match="without running statistics"):
        NormalisationLayer(nn.BatchNorm2d(4, track_running_stats=False), channel_offset=0)


ORDERS = torch.contiguous_format, torch.channels_last


OF_STREAMS = {
    "aligned": lambda streams, views: AlignedStatistics(random(streams, 1, low=0.1, high=0.9)),
    "rectified": lambda streams, views: RectifiedStatistics(0.4, *random(2, streams * views, CHANNELS)),
    "running": lambda streams, views: running(streams, None),
    "running with momentum": lambda streams, views: running(streams, 0.1),
}
every_policy = pytest.mark.parametrize("name", [*POLICIES, *OF_STREAMS])


def policy(name, streams, views):
    return OF_STREAMS[name](streams, views) if name in OF_STREAMS else POLICIES[name]()


@every_policy
@pytest.mark.parametrize(("streams", "views"), LAYOUTS)
def test_maps_may_lie_pixel_by_pixel(layer, name, streams, views):
    found = []
    for order in ORDERS:
        x, weight, bias = (each.requires_grad_() for each in make_batch(streams, views))
        made = policy(name, streams, views).normalise(x.contiguous(memory_format=order), weight, bias, layer)
        assert made.is_contiguous(memory_format=order)
        found.append([made, *torch.autograd.grad(made.sin().sum(), (x, weight, bias))])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("order", ORDERS)
def test_a_channel_that_is_flat_but_for_rounding_has_no_deviation_and_a_gradient_of_zero(order):
    x = torch.full((1, 2, 25, 21), 0.1).contiguous(memory_format=order)
    x[:, 1] *= torch.rand(25, 21)
    x.requires_grad_()
    policy, layer = AlignedStatistics(torch.ones(1, 1)), NormalisationLayer(nn.BatchNorm2d(2), 0)
    policy.normalise(x, layer.source_weight[None], layer.source_bias[None], layer)
    gradient = torch.autograd.grad(policy.distances[0].sum(), x)[0]
    # Its mean alone is drawn to the source's, by all pixels alike.
    torch.testing.assert_close(gradient[0, 0], torch.full((25, 21), 1 / (2 * 25 * 21)))
    assert gradient[0, 1].std() > 0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("of_gradient", ORDERS)
@every_policy
@pytest.mark.parametrize("streams", [1, 2])
def test_the_gradient_of_an_image_in_tiles_is_that_of_the_whole_image(layer, order, of_gradient, name, streams):
    """Also where torch takes the strides of a stack's view for those of another order."""
    whole, weight, bias = make_batch(streams, 1, height=8)
    tiles, given = unstacked(whole, 2), random(2 * streams, CHANNELS, 4, 5).contiguous(memory_format=of_gradient)
    found = []
    for count, x, gradient in ((1, whole, stacked(given, 2).contiguous()), (2, tiles, given)):
        x = x.detach().contiguous(memory_format=order if count == 2 else torch.contiguous_format).requires_grad_()
        rows = [each.clone().requires_grad_() for each in (weight, bias)]
        layer.tiles, layer.statistics = count, policy(name, streams, 1)
        layer.weight_rows, layer.bias_rows = rows
        made = layer(x)
        found.append([made, *torch.autograd.grad(made, (x, *rows), gradient)])
    (made, of_x, *of_rows), (of_tiles, of_x_of_tiles, *of_rows_of_tiles) = found
    torch.testing.assert_close(of_tiles, unstacked(made, 2), rtol=0, atol=1e-11)
    torch.testing.assert_close(of_x_of_tiles, unstacked(of_x, 2), rtol=0, atol=1e-11)
    torch.testing.assert_close(of_rows_of_tiles, of_rows, rtol=0, atol=1e-10)


@every_policy
@pytest.mark.parametrize("of_map", [False, True])
@pytest.mark.parametrize("of_gradient", [False, True])
def test_the_first_stride_of_one_image_means_nothing(layer, name, of_map, of_gradient):
    """Of an image with its channels last, as files have it, ``image.permute(2, 0, 1)[None]`` has a short one."""

    def laid_out(x, is_short):
        return x[0].permute(1, 2, 0).contiguous().permute(2, 0, 1)[None] if is_short else x.contiguous()

    x, weight, bias = make_batch(1, 1)
    found = []
    for each, gradient in ((x, x.cos()), (laid_out(x, of_map), laid_out(x.cos(), of_gradient))):
        each = each.detach().requires_grad_()
        rows = [row.clone().requires_grad_() for row in (weight, bias)]
        layer.statistics, (layer.weight_rows, layer.bias_rows) = policy(name, 1, 1), rows
        made = layer(each)
        found.append([made, *torch.autograd.grad(made, (each, *rows), gradient)])
    assert laid_out(x, True).stride(0) < x.numel()
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-11)
