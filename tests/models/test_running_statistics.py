"""Statistics that each stream has its own of: running averages, and mixtures aligned with the image."""

import pytest
import torch
from normalised import LAYOUTS, make_batch, on_values, random, running, torch_batch_norm, written_out

from tta_bench.models.normalisation import AlignedStatistics, MixedStatistics, RunningStatistics
from tta_bench.models.normalisation_layer import NormalisationLayer


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
