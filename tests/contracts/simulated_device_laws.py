"""What every method, objective and statistics policy asks of an accelerator, found out without one.

A method must leave no tensor on the wrong device, and must not make the host wait within a step, nor launch
a kernel per stream: on a fast device these two, and not arithmetic, are what a run would spend its time on.
"""

import copy
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from settings import POLICIES, options_of, varied
from simulated import SENDER, Count, DrawnKeys, bytes_taken, fake, placed, record, simulation
from torch._subclasses.fake_tensor import DynamicOutputShapeException

import tta_bench.models.graphs as graphs_module
from sections import run_config
from tta_bench.adaptation import lockstep
from tta_bench.adaptation.counters import Counters
from tta_bench.data.streams import LockstepGroups, StreamImage
from tta_bench.methods.base import METHODS, Protocol
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.graphs import Graphs
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.normalisation import BatchStatistics, Statistics
from tta_bench.objectives.base import OBJECTIVES, BoundNetwork, bind_objective, branches_of
from tta_bench.ops.draws import Draws, ImageKey
from tta_bench.ops.geometry import Geometry
from tta_bench.ops.views import Operation, StrongAugmentation

USUAL = vars(default_options("grata"))
ALWAYS = StrongAugmentation(
    **{
        name: replace(part, p=1.0) if isinstance(part, Operation) else 1.0
        for name, part in vars(USUAL["strong_augmentation"]).items()
    }
)
"""The strong view with all of its operations: the most that it launches."""

OPTIONS = {"cotta": {"restore": 1.0}}
"""What a fake tensor cannot do: to draw until enough has been drawn."""

STREAMS = 16
GROWTH = 1.3
MAPPED = {"cotta": 2.0, "fda": 1.5}
"""The same, of a method that spends several kernels per layer on telling the weights of the streams apart: as many for
two streams as for sixteen."""
ROWS = 2
"""Further kernels per layer with several streams, however many: a layer copies their rows of mean and variance."""
PASS = 37, 1.3e6
"""Kernels, and bytes moved at 64 pixels, of one pass of one image through the small network."""
BUDGETS = {
    "alpha_bn": (3.1, 1.3),
    "bn_only": (1.1, 1.1),
    "cagrad": (11.5, 19),
    "cotta": (7.7, 18),
    "detta": (4.8, 11),
    "diga": (5.1, 6),
    "dltta": (6.3, 6.5),
    "domain_adaptor": (19, 7),
    "dua": (5.2, 22),
    "grata": (10, 19),
    "gsmorph": (10.5, 19),
    "medbn": (3.5, 1.7),
    "memo": (13, 31),
    "no_adapt": (1.1, 1.1),
    "pcgrad": (11.1, 19),
    "sagm": (12.9, 30),
    "sar": (8.2, 9),
    "tent": (4.6, 5),
    "vptta": (23.5, 7),
}
"""Kernels and bytes per image at one stream, in those of one pass. Views that share a pass are one, of many bytes."""
ANY_BUDGET = 22, 31
"""Of a method that is not in the table."""
BESIDE = {
    "bn_only": 3,
    "cagrad": 116,
    "detta": 59,
    "dltta": 106,
    "grata": 71,
    "pcgrad": 104,
    "sagm": 68,
    "sar": 76,
    "tent": 40,
}
"""Kernels of a step of four streams beside recorded passes: the host submits each of them by itself."""
LARGE = {"grata": (1025, 19e9), "tent": (500, 5.6e9), "cagrad": (1080, 19e9)}
"""Kernels and bytes per image on the network of the paper at 512 pixels."""


def busy_options(name, **overrides):
    options = options_of(name, **{**OPTIONS.get(name, {}), **overrides})
    return replace(options, strong_augmentation=ALWAYS) if hasattr(options, "strong_augmentation") else options


def count_of(name, model, streams, size=64, graphs=False, **overrides):
    """What a method asks of the device at the last of several images of streams with options of their own."""
    kind, options = METHODS.get(name), busy_options(name, **overrides)
    network = AdaptableNetwork(model, kind.branches(options))
    with simulation():
        method = kind(placed(network), options, Protocol())
        network.graphs = Graphs() if graphs else None
        every = [options] * streams
        for option in kind.card.per_stream:
            every = [varied(each, option, 1 + row / streams) if row else each for row, each in enumerate(every)]
        method.share(every)
        method.start(streams)
        for k in range(4 if graphs or hasattr(options, "memory") else 2):  # all is recorded, the memory in use
            with Count() as count:
                method.step(fake(streams, 3, size, size), keys(streams, k))
    return count


def keys(streams, k=0):
    return DrawnKeys(ImageKey(0, f"domain{stream}", f"image{k}") for stream in range(streams))


@pytest.fixture(scope="module")
def model(small_net):
    return copy.deepcopy(small_net).float()


@pytest.fixture(scope="module")
def layers(model):
    return AdaptableNetwork(model).layers


@pytest.fixture(scope="module")
def counts(model):
    """What each method asks of the device, by its name and the number of streams."""
    made = {}

    def count(name, streams):
        if (name, streams) not in made:
            made[name, streams] = count_of(name, model, streams)
        return made[name, streams]

    return count


@pytest.mark.parametrize("name", METHODS.names())
def test_the_host_does_not_wait_within_a_step(counts, name):
    """The numbers that are written down are fetched while it goes on with the next image."""
    for streams in (1, STREAMS):
        waits = counts(name, streams).waits
        assert not waits, dict(waits)


@pytest.mark.parametrize("name", METHODS.names())
def test_what_goes_to_the_device_is_sent_by_one_function(counts, name):
    """Which knows how, on a GPU, the host does not wait for it."""
    copies = counts(name, 1).copies
    assert all(f"-> {SENDER}" in line for line in copies), dict(copies)


@pytest.mark.parametrize("name", METHODS.names())
def test_kernels_and_copies_do_not_grow_with_the_streams(counts, layers, name):
    one, many = counts(name, 1), counts(name, STREAMS)
    growing = Counter({key: n - one.by_operation[key] for key, n in many.by_operation.items()})
    assert many.launches <= MAPPED.get(name, GROWTH) * one.launches + ROWS * len(layers), growing.most_common(8)
    assert many.copies.total() <= max(1, GROWTH * one.copies.total()), many.copies


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_an_objective_and_its_gradient_leave_the_host_alone(model, name):
    objective = bind_objective(name, **USUAL)
    branches = branches_of([name])
    network = AdaptableNetwork(model, branches)
    with simulation():
        theta = placed(network).source_theta.repeat(2, 1).requires_grad_()
        bound = BoundNetwork(network, theta, BatchStatistics())
        with Count():
            objective(bound, fake(2, 3, 64, 64), Draws(keys(2)))  # the first pass sends how the rows are laid out
        with Count() as count:
            losses = objective(bound, fake(2, 3, 64, 64), Draws(keys(2)))
            (gradient,) = torch.autograd.grad(losses.sum(), theta)
    assert losses.shape == (2,)
    assert gradient.device == losses.device == theta.device
    assert not count.waits, dict(count.waits)


@pytest.mark.parametrize("name", POLICIES)
def test_a_statistics_policy_leaves_the_host_alone(model, name):
    network = AdaptableNetwork(model)
    with simulation():
        statistics = POLICIES[name](*(each.repeat(2, 1) for each in placed(network).source_statistics))
        images, theta = fake(4, 3, 64, 64), network.source_theta.repeat(2, 1)
        with torch.no_grad():
            network(images, theta, statistics)  # the first pass sends how the rows are laid out
            with Count() as count:
                logits = network(images, theta, statistics)
    assert logits.shape == (4, 2, 64, 64)
    assert not count.waits
    assert not count.copies.total()


def test_every_policy_is_on_the_table():
    assert {policy.__name__ for policy in Statistics.__subclasses__()} == set(POLICIES)


@pytest.mark.parametrize("name", METHODS.names())
def test_kernels_and_bytes_stay_within_their_budget(counts, name):
    count, budget = counts(name, 1), BUDGETS.get(name, ANY_BUDGET)
    launches, moved = count.launches / PASS[0], count.bytes / PASS[1]
    assert launches <= budget[0], (launches, count.by_operation.most_common(8))
    assert moved <= budget[1], moved


@pytest.mark.parametrize("name", BESIDE)
def test_few_kernels_and_copies_are_beside_the_recorded_passes(model, name, monkeypatch):
    monkeypatch.setattr(graphs_module._Recording, "make", record)
    count = count_of(name, model, 4, graphs=True)
    assert count.launches <= BESIDE[name], (count.launches, count.by_operation.most_common(8))
    assert count.copies.total() <= 4, count.copies
    assert not count.waits, dict(count.waits)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_kernels_and_bytes_on_the_network_of_the_paper_stay_within_their_budget(name):
    one, many = (count_of(name, ResUNet(2), streams, size=512) for streams in (1, STREAMS))
    launches, moved = LARGE[name]
    assert one.launches <= launches
    assert one.bytes <= moved
    assert many.launches <= GROWTH * one.launches


class Anything:
    """A domain of images that there are not."""

    image_names, geometry = "x", Geometry(64)

    def levels(self, index):
        return torch.empty(3, 64, 64)


@pytest.mark.parametrize("name", ["bn_only", "tent", "grata", "dua"])
def test_the_streams_of_a_batch_are_as_many_as_one_of_them_says(model, name, monkeypatch):
    """They fit into the memory there is, and leave less than half of it unused."""
    kind, options, memory = METHODS.get(name), busy_options(name), 2**25
    monkeypatch.setattr(lockstep, "numerics", lambda *_: nullcontext())
    monkeypatch.setattr(lockstep, "bytes_taken", bytes_taken)
    monkeypatch.setattr(lockstep, "free_memory", lambda *_: memory)
    groups = LockstepGroups([(StreamImage("A", 0, 0),)] * 10_000)
    network = AdaptableNetwork(model, kind.branches(options))
    with simulation():
        method = kind(placed(network), options, Protocol())
        before = Counters.of(method)
        width = lockstep.lockstep_width(run_config(lockstep="auto"), method, {"A": Anything()}, groups)
        assert Counters.of(method) == before

        def step():
            method.start(width)
            method.step(fake(width, 3, 64, 64), keys(width))

        taken = bytes_taken(step)
    assert 1 < width < len(groups.streams)
    assert memory / 2 < taken <= memory, width


def test_the_count_sees_waits_copies_and_kernels():
    """What the laws would miss if it saw nothing."""
    with simulation(), Count() as count:
        x = fake(3)
        assert bool((x + 1).sum() > 0)
        assert len((x + torch.ones(3).to(x.device)).tolist()) == 3
        with pytest.raises(RuntimeError, match="device"):
            x + torch.ones(3)
        with pytest.raises(DynamicOutputShapeException):
            x.nonzero()
    assert count.waits.total() == 3
    assert count.copies.total() == 1
    assert count.launches >= 4
    assert count.bytes >= 4 * 3 * 4


def test_the_tables_name_registered_methods_only():
    assert (set(MAPPED) | set(BESIDE) | set(BUDGETS) | set(LARGE)) <= set(METHODS.names())
