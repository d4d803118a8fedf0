import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tta_bench.models.normalisation import (
    AlignedStatistics,
    BatchStatistics,
    MedianStatistics,
    MixedStatistics,
    RunningStatistics,
    SourceStatistics,
)
from tta_bench.models.normalisation_layer import NormalisationLayer

CHANNELS = 3
LAYOUTS = [(1, 1), (3, 1), (1, 4), (2, 3)]
POLICIES = {
    "source": SourceStatistics,
    "batch": BatchStatistics,
    "pooled": lambda: BatchStatistics(pool_views=True),
    "mixed": lambda: MixedStatistics(0.7),
    "mixed unbiased": lambda: MixedStatistics(0.3, unbiased=True),
    "median": MedianStatistics,
}


def random(*shape, seed=0, low=-1.0, high=1.0, dtype=torch.float64):
    return torch.empty(*shape, dtype=dtype).uniform_(low, high, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def batch_norm():
    layer = nn.BatchNorm2d(CHANNELS).double()
    with torch.no_grad():
        layer.running_mean.copy_(random(CHANNELS, seed=1))
        layer.running_var.copy_(random(CHANNELS, seed=2, low=0.5, high=2))
        layer.weight.copy_(random(CHANNELS, seed=3, low=0.5, high=1.5))
        layer.bias.copy_(random(CHANNELS, seed=4))
    return layer


@pytest.fixture
def layer(batch_norm):
    return NormalisationLayer(batch_norm, channel_offset=0)


def make_batch(streams, views, height=6, width=5):
    """Images whose channels differ in mean and scale, with one row of affine parameters per stream."""
    x = random(streams * views, CHANNELS, height, width, seed=5)
    x = x * random(streams * views, CHANNELS, 1, 1, seed=6, low=0.5, high=3) + random(
        streams * views, CHANNELS, 1, 1, seed=7, low=-2, high=2
    )
    return x, random(streams, CHANNELS, seed=8, low=0.5, high=2), random(streams, CHANNELS, seed=9)


def torch_batch_norm(batch_norm, weight, bias, training, momentum=0.1):
    """Torch's own layer with the affine parameters of one stream."""
    layer = copy.deepcopy(batch_norm).train(training)
    layer.momentum = momentum
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)
    return layer


def written_out(x, mean, variance, weight, bias, eps):
    """One image ``[C, H, W]`` by the formula itself."""
    mean, variance, weight, bias = (v[:, None, None] for v in (mean, variance, weight, bias))
    return weight * (x - mean) / torch.sqrt(variance + eps) + bias


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
    out = BatchStatistics(pool_views=True).normalise(x, weight, bias, layer)
    for s in range(streams):
        rows = slice(s * views, (s + 1) * views)
        expected = torch_batch_norm(batch_norm, weight[s], bias[s], training=True)(x[rows])
        torch.testing.assert_close(out[rows], expected, rtol=0, atol=1e-12)


def test_pooling_views_is_not_independent_of_the_other_views():
    assert BatchStatistics().per_image
    assert not BatchStatistics(pool_views=True).per_image


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


def one_channel_layer(mean=0.0, variance=1.0):
    layer = nn.BatchNorm2d(1).double()
    layer.running_mean.fill_(mean)
    layer.running_var.fill_(variance)
    return NormalisationLayer(layer, channel_offset=0)


def on_values(statistics, values, layer=None, weight=1.0, bias=0.0):
    """Normalise a one-channel image of these values."""
    x = torch.as_tensor(values, dtype=torch.float64).view(1, 1, 1, -1)
    rows = torch.tensor([[weight]], dtype=torch.float64), torch.tensor([[bias]], dtype=torch.float64)
    return statistics.normalise(x, *rows, layer or one_channel_layer()).flatten()


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


@pytest.mark.parametrize("policy", [BatchStatistics(), BatchStatistics(pool_views=True), MedianStatistics()])
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


def running(streams, momentum, mean=None, variance=None, channels=CHANNELS):
    mean = random(streams, channels, seed=20) if mean is None else mean
    variance = random(streams, channels, seed=21, low=0.5, high=2) if variance is None else variance
    return RunningStatistics(mean.clone(), variance.clone(), momentum)


@pytest.mark.parametrize(("streams", "views"), LAYOUTS)
def test_a_running_average_without_momentum_normalises_and_does_not_move(layer, streams, views):
    x, weight, bias = make_batch(streams, views)
    policy = running(streams, None)
    mean, variance = policy.mean.clone(), policy.variance.clone()
    out = policy.normalise(x, weight, bias, layer)
    for index, image in enumerate(x):
        s = index // views
        expected = written_out(image, mean[s], variance[s], weight[s], bias[s], layer.eps)
        torch.testing.assert_close(out[index], expected, rtol=0, atol=1e-12)
    assert torch.equal(policy.mean, mean)
    assert torch.equal(policy.variance, variance)


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("streams", "views"), LAYOUTS)
def test_a_running_average_with_momentum_moves_as_batch_norm_does_in_training(
    layer, batch_norm, streams, views, momentum
):
    x, weight, bias = make_batch(streams, views)
    policy = running(streams, momentum)
    mean, variance = policy.mean.clone(), policy.variance.clone()
    out = policy.normalise(x, weight, bias, layer)
    for s in range(streams):
        expected = torch_batch_norm(batch_norm, weight[s], bias[s], training=True, momentum=momentum)
        expected.running_mean.copy_(mean[s])
        expected.running_var.copy_(variance[s])
        rows = slice(s * views, (s + 1) * views)
        torch.testing.assert_close(out[rows], expected(x[rows]), rtol=0, atol=1e-12)
        torch.testing.assert_close(policy.mean[s], expected.running_mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(policy.variance[s], expected.running_var, rtol=0, atol=1e-12)
    if momentum == 0:  # BN-7: no weight on the image keeps the source statistics to the bit
        assert torch.equal(policy.mean, mean)
        assert torch.equal(policy.variance, variance)


def test_aligned_statistics_are_a_mixture_of_its_own_for_every_stream(layer):
    x, weight, bias = make_batch(3, 2)
    source_weight = torch.tensor([[0.0], [0.3], [1.0]], dtype=torch.float64)
    out = AlignedStatistics(source_weight).normalise(x, weight, bias, layer)
    for s, w in enumerate(source_weight.flatten().tolist()):
        rows = slice(2 * s, 2 * s + 2)
        mixed = MixedStatistics(w, unbiased=True).normalise(x[rows], weight[s : s + 1], bias[s : s + 1], layer)
        torch.testing.assert_close(out[rows], mixed, rtol=0, atol=1e-12)


def test_aligned_statistics_record_how_far_every_image_is_from_the_mixture(layer):
    x, weight, bias = make_batch(2, 1)
    policy = AlignedStatistics(torch.tensor([[0.25], [1.0]], dtype=torch.float64))
    for _ in range(2):
        policy.normalise(x, weight, bias, layer)
    assert len(policy.distances) == 2
    for image, w, distance in zip(x, (0.25, 1.0), policy.distances[1], strict=True):
        mean, variance = image.mean((1, 2)), image.var((1, 2), correction=1)
        mixed = w * layer.source_variance + (1 - w) * variance
        expected = (w * (layer.source_mean - mean)).abs().mean() + (mixed.sqrt() - variance.sqrt()).abs().mean()
        assert distance.item() == pytest.approx(expected.item(), abs=1e-12)


def test_aligned_statistics_are_constants_and_a_constant_channel_has_a_gradient(layer):
    x, weight, bias = make_batch(1, 1)
    x[0, 1] = 0.7
    x.requires_grad_()
    policy = AlignedStatistics(torch.full((1, 1), 0.5, dtype=torch.float64))
    out = policy.normalise(x, weight, bias, layer)
    upstream = random(*x.shape, seed=11)
    (gradient,) = torch.autograd.grad(out, x, upstream, retain_graph=True)
    variance = 0.5 * layer.source_variance + 0.5 * x.detach().var((0, 2, 3), correction=1)
    scale = weight[0] / torch.sqrt(variance + layer.eps)
    torch.testing.assert_close(gradient, upstream * scale[:, None, None], rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(policy.distances[0].sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().amax((0, 2, 3)).min() > 0


def test_every_stream_may_have_a_momentum_of_its_own(layer):
    x, weight, bias = make_batch(3, 2)
    momenta = torch.tensor([[0.1], [0.0], [1.0]], dtype=torch.float64)
    together = running(3, momenta)
    together.normalise(x, weight, bias, layer)
    for s, momentum in enumerate(momenta.flatten().tolist()):
        alone = running(3, None)
        alone = RunningStatistics(alone.mean[s : s + 1], alone.variance[s : s + 1], momentum)
        alone.normalise(x[2 * s : 2 * s + 2], weight[s : s + 1], bias[s : s + 1], layer)
        torch.testing.assert_close(together.mean[s], alone.mean[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(together.variance[s], alone.variance[0], rtol=0, atol=1e-12)


def test_a_layer_updates_its_own_channels_of_the_running_average_only(batch_norm):
    layer = NormalisationLayer(batch_norm, channel_offset=2)
    x, weight, bias = make_batch(2, 1)
    policy = running(2, 0.5, channels=8)
    before = policy.mean.clone()
    policy.normalise(x, weight, bias, layer)
    changed = (policy.mean != before).all(dim=0)
    assert changed.tolist() == [False, False, True, True, True, False, False, False]


def test_the_first_update_of_dua_gives_the_worked_example_bn6():
    mean, variance = torch.tensor([[[5.0]], [[4.0]]], dtype=torch.float64)
    policy = RunningStatistics(mean, variance, momentum=0.1 * 0.94 + 0.005)
    on_values(policy, [0, 1, 2, 3])
    assert policy.mean.item() == pytest.approx(4.6535, abs=1e-12)
    assert policy.variance.item() == pytest.approx(3.7690, abs=1e-12)


def test_eighty_updates_of_dua_leave_the_expected_weight_on_the_source_bn5():
    policy = RunningStatistics(torch.ones(1, 1).double(), torch.ones(1, 1).double())
    momenta = [0.1 * 0.94**k + 0.005 for k in range(1, 81)]
    assert [momenta[0], momenta[1], momenta[79]] == pytest.approx([0.099, 0.09336, 0.005708], abs=1e-6)
    for policy.momentum in momenta:
        on_values(policy, [-1, 1, -1, 1])
    assert policy.mean.item() == pytest.approx(0.13473, abs=1e-5)


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
