import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from plain_grata import affine_parameters, with_batch_statistics
from tta_bench.methods import detta
from tta_bench.methods.bn_only import BatchNormOnly
from tta_bench.methods.detta import DeTTA, draw_pixels, masked_error
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import Draws, ImageKey

corrupt = partial(detta.corrupt, masked=0.1, radius=2)

KEYS = [ImageKey(0, "B", f"image{k}") for k in range(8)]


@pytest.fixture(scope="module")
def network(small_net):
    return AdaptableNetwork(small_net, ("denoising",))


def start(network, streams=1, **options):
    method = DeTTA(network, replace(default_options("detta"), **options))
    method.start(streams)
    return method


def run(method, images):
    return [method.step(images[k : k + 1], KEYS[k : k + 1]) for k in range(len(images))]


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def blind_spots(k):
    """The generators that the method uses at image k."""
    return Draws(KEYS[k : k + 1]).generators("blind spots")


def numbered(size):
    """An image whose values tell where they came from, per channel: ``[1, 3, size, size]``."""
    return torch.arange(size * size, dtype=torch.float64).view(1, 1, size, size).repeat(1, 3, 1, 1)


# The corruption


def test_the_drawn_pixels_are_26214_per_channel_a_share_of_0952_once_counted_n1():
    drawn = draw_pixels((3, 512, 512), 0.1, *generators(0))
    assert drawn.shape == (3, 26_214)
    assert drawn.min() >= 0
    assert drawn.max() < 512**2
    assert (drawn[0] != drawn[1]).any()
    distinct = torch.tensor([len(channel.unique()) for channel in drawn]) / 512**2
    torch.testing.assert_close(distinct, torch.full((3,), 0.0952), rtol=0, atol=0.002)
    _, mask = corrupt(numbered(512), generators(0))
    assert torch.equal(mask.flatten(2).sum(2)[0] / 512**2, distinct)


def test_every_offset_from_minus_2_to_2_is_drawn_equally_often_and_wraps_at_the_border_n1():
    size = 512
    images = numbered(size)
    noisy, mask = corrupt(images, generators(1))
    down, right = (
        (noisy.div(size, rounding_mode="floor") - images.div(size, rounding_mode="floor")),
        noisy % size - images % size,
    )
    down, right = ((offset[mask] + size // 2) % size - size // 2 for offset in (down, right))
    for offset in (down, right):
        values, counts = offset.unique(return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        torch.testing.assert_close(counts / counts.sum(), torch.full((5,), 0.2), rtol=0, atol=0.01)
    assert abs(torch.corrcoef(torch.stack([down, right]))[0, 1]) < 0.02
    top = torch.zeros_like(mask)
    top[..., 0, :] = True
    assert (noisy[mask & top] >= size * (size - 2)).any()  # a neighbour above the first row is one of the last rows


def test_a_larger_radius_reaches_further():
    noisy, mask = corrupt(numbered(64), generators(1), radius=3)
    shift = ((noisy - numbered(64)) % 64)[mask]
    assert set(shift.tolist()) == {0, 1, 2, 3, 61, 62, 63}


def test_the_corrupted_image_differs_at_drawn_pixels_only_n6(images):
    before = images[:3].clone()
    noisy, mask = corrupt(images[:3], generators(0, 1, 2))
    assert torch.equal(noisy[~mask], images[:3][~mask])
    assert (noisy[mask] != images[:3][mask]).double().mean() > 0.9  # one in 25 is replaced by itself
    assert torch.equal(images[:3], before)


def test_every_channel_and_every_image_has_a_mask_of_its_own_whatever_its_neighbours(images):
    together, masks = corrupt(images[:2], generators(3, 4))
    assert (masks[0] != masks[1]).any()
    assert (masks[0, 0] != masks[0, 1]).any()
    for row, seed in enumerate((3, 4)):
        alone, mask = corrupt(images[row : row + 1], generators(seed))
        assert torch.equal(alone[0], together[row])
        assert torch.equal(mask[0], masks[row])


# The loss


def test_the_loss_ignores_the_output_at_other_pixels_n2(images):
    _, mask = corrupt(images[:2], generators(0, 1))
    denoised = (images[:2] + 0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(masked_error(denoised, images[:2], mask).sum(), denoised)
    assert torch.equal(gradient[~mask], torch.zeros_like(gradient[~mask]))
    torch.testing.assert_close(gradient[mask], torch.full_like(gradient[mask], 1 / (3 * 64 * 64)))


def test_an_error_of_one_everywhere_costs_the_share_of_drawn_pixels_n3(images):
    _, mask = corrupt(images[:2], generators(0, 1))
    share = mask.flatten(1).double().mean(1)
    torch.testing.assert_close(masked_error(images[:2] + 1, images[:2], mask), share, rtol=0, atol=1e-12)
    assert share[0] == pytest.approx(0.0952, abs=0.005)


def test_a_perfectly_denoised_image_costs_nothing_and_changes_nothing_n4(small_net):
    model = copy.deepcopy(small_net)
    torch.nn.init.zeros_(model.branches["denoising"].head.weight)
    torch.nn.init.zeros_(model.branches["denoising"].head.bias)
    network = AdaptableNetwork(model, ("denoising",))
    method = start(network, learning_rate=1e-2)
    grey = torch.full((1, 3, 64, 64), 0.5, dtype=torch.float64)  # logits of 0 say just that
    for result in run(method, grey.repeat(2, 1, 1, 1)):
        assert result.diagnostics["loss_denoising"] == [0.0]
        assert result.diagnostics["skipped"] == [False]
    assert torch.equal(method.theta(1)[0], network.source_theta)


# The method


def test_detta_is_torch_s_adam_on_the_masked_error_of_torch_s_model(small_net, network, images):
    model = with_batch_statistics(small_net)
    optimizer = torch.optim.Adam(affine_parameters(model), lr=1e-3)
    results = run(start(network, learning_rate=1e-3), images[:3])
    for k, result in enumerate(results):
        x = images[k : k + 1]
        noisy, mask = corrupt(x, blind_spots(k))
        loss = ((torch.sigmoid(model.branch("denoising", noisy)) - x)[mask]).abs().sum() / x.numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert result.diagnostics["loss_denoising"][0] == pytest.approx(loss.item(), abs=1e-9)
        with torch.no_grad():
            torch.testing.assert_close(result.logits, model(x), rtol=0, atol=1e-8)


def test_the_segmentation_decoder_stays_and_encoder_and_branch_move_n5(network, images):
    method = start(network, learning_rate=1e-3)
    run(method, images[:3])
    moved = method.theta(1)[0] != network.source_theta
    parts = network.tensor_slices()
    for name, scale, shift in zip(network.layers, parts[::2], parts[1::2], strict=True):
        adapted = moved[scale].any() or moved[shift].any()
        assert adapted == name.startswith(("down.", "branches.denoising.")), name


def test_a_learning_rate_of_zero_is_bn_only(network, images):
    control = run(BatchNormOnly(network), images[:2])
    for result, expected in zip(run(start(network, learning_rate=0.0), images[:2]), control, strict=True):
        torch.testing.assert_close(result.logits, expected.logits, rtol=0, atol=1e-12)


def test_a_small_gradient_step_lowers_the_loss_on_the_same_draws(network, images):
    method = start(network, learning_rate=1e-2, optimizer="sgd")
    first, second = (method.adapt(images[:1], Draws(KEYS[:1]))["loss_denoising"].item() for _ in range(2))
    assert second < first


def test_the_official_preset_is_torch_s_training_mode_then_evaluation_mode(small_net, network, images):
    options = default_options("detta", preset="official")
    assert options == replace(default_options("detta"), learning_rate=1e-6, betas=(0.9, 0.99), running_momentum=0.1)
    model = copy.deepcopy(small_net)
    optimizer = torch.optim.Adam(affine_parameters(model), lr=1e-3, betas=(0.9, 0.99))
    method = start(network, learning_rate=1e-3, betas=(0.9, 0.99), running_momentum=0.1)
    before = network.forwards
    for k, result in enumerate(run(method, images[:3])):
        x = images[k : k + 1]
        noisy, mask = corrupt(x, blind_spots(k))
        # As in the official network both decoders run on one pass of the encoder; only one of them has a loss.
        features = model.train().encode(noisy)
        model.classify(model.decode(features))
        denoised = torch.sigmoid(model.branches["denoising"](F.relu(features[-1])))
        optimizer.zero_grad()
        ((denoised - x)[mask].abs().sum() / x.numel()).backward()
        optimizer.step()
        with torch.no_grad():
            torch.testing.assert_close(result.logits, model.eval()(x), rtol=0, atol=1e-8)
    mean, variance = network.source_statistics
    moved = (method.running.mean[0] != mean) & (method.running.variance[0] != variance)
    for name, layer in network._all_layers.items():
        used = not name.startswith("branches.") or name.startswith("branches.denoising.")
        assert moved[layer.channel_slice].all() == used, name
        assert moved[layer.channel_slice].any() == used, name
    # One pass of the encoder serves both decoders.
    assert network.forwards - before == 2 * 3


def test_running_statistics_of_a_stream_do_not_see_its_neighbours_nor_a_faulty_image(network, images):
    faulty = images[4:7].clone()
    faulty[1, :, 10, 10] = float("nan")
    together = start(network, 2, learning_rate=1e-3, running_momentum=0.1)
    for k in range(3):
        keys = [ImageKey(0, domain, f"image{k}") for domain in "BC"]
        last = together.step(torch.stack([images[k], faulty[k]]), keys)
    assert together.skipped == 1
    for row, (domain, stream, places) in enumerate([("B", images, (0, 1, 2)), ("C", faulty, (0, 2))]):
        alone = start(network, learning_rate=1e-3, running_momentum=0.1)
        for k in places:
            result = alone.step(stream[k : k + 1], [ImageKey(0, domain, f"image{k}")])
        torch.testing.assert_close(last.logits[row], result.logits[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": -1e-4},
        {"betas": (0.9, 1.0)},
        {"masked": 0.0},
        {"masked": 1.5},
        {"radius": 0},
        {"running_momentum": 0.0},
        {"running_momentum": 1.5},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        replace(default_options("detta"), **options)
