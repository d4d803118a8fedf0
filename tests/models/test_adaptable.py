import copy
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from plain_grata import affine_parameters, all_parameters, with_batch_statistics
from tta_bench.errors import UserError
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.foreign import ForeignNetwork
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.networks.unet import UNet
from tta_bench.models.normalisation import (
    BatchStatistics,
    MedianStatistics,
    MixedStatistics,
    RunningStatistics,
    SourceStatistics,
)
from tta_bench.models.placement import place

IMAGE_BRANCHES = ("reconstruction", "denoising", "super_resolution")
UNUSED_FC = 513_000
"""Parameters of the classifier that the official checkpoints carry and never use."""


@pytest.fixture(scope="module")
def resunet():
    return ResUNet(2, branches=(*IMAGE_BRANCHES, "rotation"))


@pytest.fixture(scope="module")
def network(unet):
    return AdaptableNetwork(unet)


@pytest.fixture(scope="module")
def branched(small_net):
    return AdaptableNetwork(small_net, IMAGE_BRANCHES)


def theta_rows(network, streams, spread=0.1):
    """A different state for every stream, around the source model's."""
    source = network.source_theta
    noise = torch.randn(streams, source.numel(), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return source + spread * noise.to(source)


def model_with(model, network, row):
    """The original torch model with the affine parameters of one stream."""
    model = copy.deepcopy(model)
    tensors = [t for name in network.layers for t in model.get_submodule(name).parameters()]
    with torch.no_grad():
        nn.utils.vector_to_parameters(row, tensors)
    return model


@pytest.mark.parametrize(
    ("branches", "layers", "channels", "parameters"),
    [((), 41, 9_568, 22_554_570 - UNUSED_FC), (IMAGE_BRANCHES, 53, 9_568 + 3 * 480, 23_267_842 - UNUSED_FC)],
)
def test_the_paper_s_network_has_the_official_counts_bn1(resunet, branches, layers, channels, parameters):
    network = AdaptableNetwork(resunet, branches)
    assert len(network.layers) == layers
    assert sum(layer.channels for layer in network.layers.values()) == channels
    assert network.source_theta.shape == (2 * channels,)
    model = resunet if branches else ResUNet(2)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_the_paper_s_network_has_36_encoder_and_5_decoder_layers(resunet):
    names = list(AdaptableNetwork(resunet).layers)
    assert sum(name.startswith("encoder.") for name in names) == 36
    assert names[36:] == ["up1.bn", "up2.bn", "up3.bn", "up4.bn", "bnout"]


def test_theta_holds_scale_then_shift_of_each_layer_in_module_order(unet, network):
    tensors = affine_parameters(unet)
    slices = network.tensor_slices()
    assert len(slices) == len(tensors) == 2 * len(network.layers)
    for where, tensor in zip(slices, tensors, strict=True):
        assert torch.equal(network.source_theta[where], tensor)
    assert slices[0].start == 0
    assert all(a.stop == b.start for a, b in pairwise(slices))
    assert slices[-1].stop == network.source_theta.numel()


def test_branches_are_adapted_only_if_named_and_come_after_the_segmentation_path(small_net):
    without = AdaptableNetwork(small_net)
    chosen = AdaptableNetwork(small_net, ("denoising",))
    assert not any(name.startswith("branches.") for name in without.layers)
    added = list(chosen.layers)[len(without.layers) :]
    assert len(added) == 4
    assert all(name.startswith("branches.denoising.") for name in added)
    assert torch.equal(chosen.source_theta[: without.source_theta.numel()], without.source_theta)


def test_source_statistics_give_the_original_model_in_eval_mode(unet, network, images):
    rows = theta_rows(network, 2)
    out = network(images[:4], rows, SourceStatistics())
    for s in range(2):
        expected = model_with(unet, network, rows[s]).eval()(images[2 * s : 2 * s + 2])
        torch.testing.assert_close(out[2 * s : 2 * s + 2], expected, rtol=0, atol=1e-10)


def test_batch_statistics_give_the_original_model_in_train_mode_on_one_image_at_a_time(unet, network, images):
    rows = theta_rows(network, 2)
    out = network(images[:4], rows)
    for index in range(4):
        expected = with_batch_statistics(model_with(unet, network, rows[index // 2]))(images[index : index + 1])
        torch.testing.assert_close(out[index : index + 1], expected, rtol=0, atol=1e-10)


def policies(network, streams):
    mean, variance = (v.repeat(streams, 1) for v in network.source_statistics)
    return {
        "source": SourceStatistics(),
        "batch": BatchStatistics(),
        "mixed": MixedStatistics(0.6),
        "median": MedianStatistics(),
        "running": RunningStatistics(mean, variance),
        "running with momentum": RunningStatistics(mean, variance, 0.2),
    }


NAMES = ("source", "batch", "mixed", "median", "running", "running with momentum")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("streams", "views"), [(3, 1), (2, 3)])
def test_streams_and_views_in_one_batch_equal_separate_passes(branched, images, name, streams, views):
    rows, x = theta_rows(branched, streams), images[: streams * views]
    together = branched(x, rows, policies(branched, streams)[name])
    for s in range(streams):
        alone = branched(x[s * views : (s + 1) * views], rows[s : s + 1], policies(branched, 1)[name])
        torch.testing.assert_close(together[s * views : (s + 1) * views], alone, rtol=0, atol=1e-12)


def test_gradients_of_streams_in_one_batch_equal_separate_ones(branched, images):
    rows = theta_rows(branched, 3).requires_grad_()
    (together,) = torch.autograd.grad(branched(images[:6], rows).square().sum(), rows)
    for s in range(3):
        row = rows[s : s + 1].detach().requires_grad_()
        (alone,) = torch.autograd.grad(branched(images[2 * s : 2 * s + 2], row).square().sum(), row)
        torch.testing.assert_close(together[s : s + 1], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("limit", [1, 2, 4, 6, 100])
@pytest.mark.parametrize("name", NAMES)
def test_a_few_images_per_pass_change_neither_numbers_nor_counts(small_net, images, name, limit):
    network = AdaptableNetwork(small_net)
    rows = theta_rows(network, 2)
    with torch.no_grad():
        expected = network(images[:6], rows, policies(network, 2)[name])
        network.images_per_pass, before = limit, network.forwards
        out = network(images[:6], rows, policies(network, 2)[name])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert network.forwards - before == before == 3


def test_running_statistics_move_once_per_forward(branched, images):
    policy = policies(branched, 2)["running with momentum"]
    before = policy.mean.clone()
    branched(images[:2], theta_rows(branched, 2), policy)
    moved = (policy.mean != before).all(dim=0)
    for name, layer in branched._all_layers.items():
        assert moved[layer.channel_slice].all() == (not name.startswith("branches.")), name


def test_source_statistics_are_those_of_all_layers_in_order(small_net, branched):
    layers = [m for m in small_net.modules() if isinstance(m, nn.BatchNorm2d)]
    mean, variance = branched.source_statistics
    assert torch.equal(mean, torch.cat([layer.running_mean for layer in layers]))
    assert torch.equal(variance, torch.cat([layer.running_var for layer in layers]))


@pytest.mark.parametrize(
    "build", [ResUNet, partial(UNet, "resnet18", encoder_weights=None, decoder_channels=(64, 32, 16, 8, 4))]
)
def test_branches_do_not_change_the_weights_the_rest_starts_from(build):
    torch.manual_seed(0)
    without = build(classes=2).state_dict()
    torch.manual_seed(0)
    branched = build(classes=2, branches=("denoising", "rotation")).state_dict()
    assert {name for name in branched if not name.startswith("branches.")} == set(without)
    assert all(torch.equal(branched[name], weight) for name, weight in without.items())


@pytest.mark.parametrize(("branch", "shape"), [("reconstruction", (3, 64, 64)), ("super_resolution", (3, 128, 128))])
def test_image_branches_give_an_image_for_every_input(branched, images, branch, shape):
    rows = theta_rows(branched, 2)
    out = branched.branch(branch, images[:4], rows)
    assert out.shape == (4, *shape)
    alone = branched.branch(branch, images[2:4], rows[1:])
    torch.testing.assert_close(out[2:4], alone, rtol=0, atol=1e-12)


def test_the_rotation_branch_gives_six_classes(branched, images):
    assert branched.branch("rotation", images[:4], theta_rows(branched, 2)).shape == (4, 6)


def test_a_branch_is_the_original_model_s_branch(small_net, branched, images):
    row = theta_rows(branched, 1)
    model = model_with(small_net, branched, row[0])
    with torch.no_grad():
        for name in IMAGE_BRANCHES:
            expected = model.branch(name, images[:1])
            out = branched.branch(name, images[:1], row, SourceStatistics())
            torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)


def test_activations_hold_what_the_segmentation_path_computes(unet, network, images):
    activations = network.activations(images[:2], network.source_theta.repeat(2, 1), SourceStatistics())
    assert activations.bottleneck.shape == (2, 96, 2, 2)
    assert activations.head_input.shape == (2, 8, 64, 64)
    torch.testing.assert_close(activations.logits, unet(images[:2]), rtol=0, atol=1e-10)


def test_the_source_model_and_the_frozen_copy_stay_as_they_are(small_net, images):
    source = {key: value.clone() for key, value in small_net.state_dict().items()}
    network = AdaptableNetwork(small_net)
    frozen = {key: value.clone() for key, value in network.state_dict().items()}
    rows = theta_rows(network, 2).requires_grad_()
    for policy in policies(network, 2).values():
        network(images[:4], rows, policy).sum().backward()
    assert all(torch.equal(value, source[key]) for key, value in small_net.state_dict().items())
    assert all(torch.equal(value, frozen[key]) for key, value in network.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in network.model.parameters())


def assert_nothing_in_force(network):
    for layer in network._all_layers.values():
        assert layer.weight_rows is None
        assert layer.bias_rows is None
        assert isinstance(layer.statistics, SourceStatistics)


def test_nothing_is_left_in_force_after_a_pass_or_an_exception(small_net, images):
    network = AdaptableNetwork(small_net)
    network(images[:2], theta_rows(network, 2), MedianStatistics())
    assert_nothing_in_force(network)
    torch.testing.assert_close(network.model(images[:2]), small_net(images[:2]), rtol=0, atol=1e-10)

    class Broken(SourceStatistics):
        def normalise(self, x, weight, bias, layer):
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        network(images[:2], theta_rows(network, 2), Broken())
    assert_nothing_in_force(network)
    with pytest.raises(KeyError):
        network.branch("no such branch", images[:2], theta_rows(network, 2))
    assert_nothing_in_force(network)


def test_images_that_do_not_divide_into_the_streams_are_refused(branched, images):
    with pytest.raises(ValueError, match="3 images do not divide into 2 streams"):
        branched(images[:3], theta_rows(branched, 2))


def test_a_network_without_normalisation_is_refused():
    with pytest.raises(UserError, match="no normalisation layer that can be adapted"):
        AdaptableNetwork(ForeignNetwork(nn.Conv2d(3, 2, 1)))


def test_float32_agrees_with_float64(small_net, branched, images):
    single = AdaptableNetwork(copy.deepcopy(small_net).float())
    assert single.source_theta.dtype == torch.float32
    double = AdaptableNetwork(small_net)
    rows = theta_rows(double, 2)
    out = single(images[:4].float(), rows.float())
    torch.testing.assert_close(out.double(), double(images[:4], rows), rtol=0, atol=1e-3)


def full_rows(network, streams, spread=0.02):
    """A different state of all parameters for every stream, around the source model's."""
    source = network.source_parameters
    noise = torch.randn(streams, source.numel(), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return source + spread * noise


def torch_model_with(model, row):
    """The original torch model with all parameters of one stream, and these parameters in the order of the row."""
    model = with_batch_statistics(model).requires_grad_()
    with torch.no_grad():
        nn.utils.vector_to_parameters(row, all_parameters(model))
    return model, all_parameters(model)


def test_all_parameters_are_those_outside_the_branches(resunet):
    total = 22_554_570 - UNUSED_FC
    assert AdaptableNetwork(resunet).source_parameters.shape == (total,)
    assert AdaptableNetwork(resunet, ("denoising",)).source_parameters.shape == (total + 2 * 480,)


@pytest.mark.parametrize("views", [1, 2])
def test_rows_of_all_parameters_give_every_stream_a_torch_model_of_its_own(small_net, images, views):
    network = AdaptableNetwork(small_net)
    rows = full_rows(network, 3).requires_grad_()
    out = network(images[: 3 * views], rows)
    (gradient,) = torch.autograd.grad(out.square().sum(), rows)
    assert network.forwards == views
    for s in range(3):
        model, parameters = torch_model_with(small_net, rows[s].detach())
        expected = torch.cat([model(image[None]) for image in images[s * views : (s + 1) * views]])
        torch.testing.assert_close(out[s * views : (s + 1) * views], expected, rtol=0, atol=1e-10)
        expected_gradient = torch.autograd.grad(expected.square().sum(), parameters)
        flat = torch.cat([g.flatten() for g in expected_gradient])
        torch.testing.assert_close(gradient[s], flat, rtol=1e-8, atol=1e-7)


def test_the_source_model_s_row_of_all_parameters_is_the_source_model(branched, images):
    affine, full = branched.source_theta.expand(2, -1), branched.source_parameters.expand(2, -1)
    for policy in (SourceStatistics(), BatchStatistics(), MixedStatistics(0.6)):
        # Maps lie in another order where weights vary.
        found, expected = branched(images[:1], full[:1], policy), branched(images[:1], affine[:1], policy)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        together = branched(images[:4], affine, policy)
        torch.testing.assert_close(branched(images[:4], full, policy), together, rtol=0, atol=1e-12)


@pytest.mark.parametrize("limit", [1, 4])
def test_a_few_images_per_pass_change_nothing_for_rows_of_all_parameters(small_net, images, limit):
    network = AdaptableNetwork(small_net)
    rows = full_rows(network, 2)
    with torch.no_grad():
        expected = network(images[:6], rows)
        network.images_per_pass = limit
        torch.testing.assert_close(network(images[:6], rows), expected, rtol=0, atol=1e-12)
    assert network.forwards == 6


def test_rows_of_all_parameters_leave_the_shared_network_as_it_is(small_net, images):
    network = AdaptableNetwork(small_net)
    frozen = {key: value.clone() for key, value in network.state_dict().items()}
    rows = full_rows(network, 2).requires_grad_()
    network(images[:4], rows).sum().backward()
    assert rows.grad.isfinite().all()
    with pytest.raises(RuntimeError):
        network(images[:3], rows)
    with pytest.raises(RuntimeError):
        network(images[:2], rows[:, :-1])
    assert all(torch.equal(value, frozen[key]) for key, value in network.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert all(isinstance(p, nn.Parameter) for p in network.model.parameters())
    assert_nothing_in_force(network)


def test_views_beyond_a_pass_are_computed_again_and_not_kept(small_net, images):
    """With a gradient: the same loss and gradient, from a small part of the memory."""
    network, kept = AdaptableNetwork(small_net), {}
    views = images[:12]  # six of each of two streams
    for limit in (None, 1, 4):
        network.images_per_pass, before, sizes = limit, network.forwards, {}

        def keep(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        rows = network.source_parameters.repeat(2, 1).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = network(views, rows).square().mean()
        kept[limit] = sum(sizes.values()), loss, torch.autograd.grad(loss, rows)[0]
        assert network.forwards - before == 6
    for limit in (1, 4):
        assert kept[limit][0] < 0.5 * kept[None][0]
        for number, expected in zip(kept[limit][1:], kept[None][1:], strict=True):
            torch.testing.assert_close(number, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("size", "passes"), [(128, 1), (256, 1), (512, 10), (768, 12)])
def test_views_pass_twice_where_their_activations_would_not_fit(small_net, size, passes, monkeypatch):
    """Six of 256 pixels are kept, of 512 the last two; of the others each passes alone, and again for its gradient."""
    network = place(AdaptableNetwork(small_net).float(), torch.device("cpu"), size)
    calls = []
    monkeypatch.setattr(network.model, "forward", lambda x, of=network.model.forward: calls.append(len(x)) or of(x))
    theta = network.source_theta[None].clone().requires_grad_()
    network(torch.rand(6, 3, size, size), theta).square().mean().backward()
    assert len(calls) == passes
