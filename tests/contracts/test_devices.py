"""What a GPU computes is what a CPU computes: by its kernels on a CPU, and on the GPU itself where there is one."""

import copy

import pytest
import torch
from runs import assert_equal, branches_of, every_method, make, run
from settings import POLICIES

from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.graphs import Graphs
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.normalisation import BatchStatistics
from tta_bench.models.placement import place
from tta_bench.objectives.base import OBJECTIVES, BoundNetwork, bind_objective
from tta_bench.objectives.base import branches_of as objective_branches
from tta_bench.ops.draws import Draws, ImageKey
from tta_bench.runtime import numerics as numerics_module
from tta_bench.runtime.memory import bytes_taken, free_memory
from tta_bench.runtime.numerics import numerics

CPU, GPU = torch.device("cpu"), torch.device("cuda")
FLOAT32 = 3e-2
"""Of the largest logit, loss or gradient: Adam's first steps are signs, and so are gradients of absolute errors, which
turn where a gradient or an error is nearly 0."""

on_a_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
pytestmark = pytest.mark.filterwarnings("ignore:.*performance drop:UserWarning")  # of vmap, where it has no kernel


@pytest.fixture
def kernels_of_a_gpu(monkeypatch):
    """Lets the CPU be a device that is not on the table of placements."""
    return lambda: monkeypatch.setattr(numerics_module, "_PLACEMENTS", {})


@every_method
def test_a_method_gives_the_same_by_the_kernels_of_a_gpu(small_net, streams, usual, name, kernels_of_a_gpu):
    expected, network = usual(name), AdaptableNetwork(small_net, branches_of(name))
    kernels_of_a_gpu()
    assert_equal(expected, run(make(name, network), streams), atol=1e-8)


def test_the_network_of_the_paper_gives_the_same_by_the_kernels_of_a_gpu(images, kernels_of_a_gpu):
    network = AdaptableNetwork(ResUNet(classes=2)).double()

    def outcome():
        theta = network.source_theta.repeat(2, 1).requires_grad_()
        logits = network(images[:4], theta)
        with torch.no_grad():
            plain = network(images[:4], theta)
        return logits.detach(), plain, *torch.autograd.grad(logits.square().mean(), theta)

    expected = outcome()
    kernels_of_a_gpu()
    for first, second in zip(expected, outcome(), strict=True):
        torch.testing.assert_close(second, first, rtol=0, atol=1e-9 * first.abs().max().item())


def compared(compute, network):
    """What ``compute`` makes of a float32 network on the CPU and on the GPU agrees."""
    first, second = (list(compute(place(copy.deepcopy(network), device, 64), device)) for device in (CPU, GPU))
    for expected, tensor in zip(first, second, strict=True):
        assert tensor.device.type == GPU.type
        bound = FLOAT32 * max(1.0, expected.abs().max().item())
        torch.testing.assert_close(tensor.cpu(), expected, rtol=0, atol=bound)


@pytest.fixture
def network_of(small_net):
    return lambda branches=(): AdaptableNetwork(copy.deepcopy(small_net).float(), branches)


@pytest.mark.parametrize("marked", [pytest.param(None, marks=on_a_gpu)], ids=["gpu"])
@every_method
def test_a_method_on_the_gpu(network_of, images, name, marked):
    """Several images of two streams, for a memory to be in use."""

    def compute(network, device):
        method = make(name, network)
        method.start(2)
        with numerics(device):
            for k, pair in enumerate(images[:8].float().to(device).split(2)):
                yield method.step(pair, [ImageKey(0, domain, f"image{k}") for domain in "BC"]).logits

    compared(compute, network_of(branches_of(name)))


@pytest.mark.parametrize("name", [pytest.param(name, marks=on_a_gpu) for name in OBJECTIVES.names()])
def test_an_objective_on_the_gpu(network_of, images, name):
    objective = bind_objective(name, **vars(default_options("grata")))

    def compute(network, device):
        theta = network.source_theta[None].clone().requires_grad_()
        with numerics(device):
            bound = BoundNetwork(network, theta, BatchStatistics())
            losses = objective(bound, images[:1].float().to(device), Draws([ImageKey(0, "B", "image0")]))
            return losses.detach(), *torch.autograd.grad(losses.sum(), theta)

    compared(compute, network_of(objective_branches([name])))


@pytest.mark.parametrize("name", [pytest.param(name, marks=on_a_gpu) for name in POLICIES])
def test_a_statistics_policy_on_the_gpu(network_of, images, name):
    def compute(network, device):
        statistics = POLICIES[name](*(each.repeat(2, 1) for each in network.source_statistics))
        with torch.no_grad(), numerics(device):
            yield network(images[:4].float().to(device), network.source_theta.repeat(2, 1), statistics)

    compared(compute, network_of())


@pytest.mark.parametrize("marked", [pytest.param(None, marks=on_a_gpu)], ids=["gpu"])
def test_a_product_on_the_gpu_is_one_of_float32(marked):
    """TF32 keeps 10 bits."""
    x = torch.rand(2, 256, 256, generator=torch.Generator().manual_seed(0))
    before = torch.cuda.current_device()
    with numerics(torch.device("cuda", torch.cuda.device_count() - 1)) as _:
        assert torch.cuda.current_device() == torch.cuda.device_count() - 1
        product = (x[0].cuda() @ x[1].cuda()).cpu()
        convolved = torch.nn.functional.conv2d(x[None].cuda(), x[None, :, :3, :3].cuda()).cpu()
    assert torch.cuda.current_device() == before
    exact = x.double()
    torch.testing.assert_close(product, (exact[0] @ exact[1]).float(), rtol=1e-5, atol=0)
    expected = torch.nn.functional.conv2d(exact[None], exact[None, :, :3, :3])
    torch.testing.assert_close(convolved, expected.float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("megabytes", [pytest.param(64, marks=on_a_gpu)])
def test_what_work_takes_of_a_gpu_is_measured(megabytes):
    kept = torch.empty(2**24, device=GPU)
    taken = bytes_taken(lambda: torch.empty(megabytes * 2**20, dtype=torch.uint8, device=GPU), kept.device)
    assert megabytes <= taken / 2**20 < megabytes + 4
    total = torch.cuda.mem_get_info(kept.device)[1]
    assert 0 < free_memory(kept.device, 2) <= total // 2
    assert free_memory(kept.device) <= total - kept.nbytes


@pytest.mark.parametrize("marked", [pytest.param(None, marks=on_a_gpu)], ids=["gpu"])
@every_method
def test_recorded_passes_give_the_same_numbers(network_of, images, name, marked):
    """Bit for bit, and so do two runs."""
    network = place(network_of(branches_of(name)), GPU, 64)

    def compute(graphs):
        network.graphs = graphs
        method = make(name, network)
        method.start(2)
        with numerics(GPU):
            pairs = images[:8].float().to(GPU).split(2)
            keys = [[ImageKey(0, domain, f"image{k}") for domain in "BC"] for k in range(len(pairs))]
            return torch.stack([method.step(*each).logits for each in zip(pairs, keys, strict=True)])

    assert torch.equal(compute(Graphs()), compute(None))
