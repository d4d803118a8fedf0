"""Recorded passes: when one is made and played, and that nothing is overwritten that is still needed.

A recording is played here by computing its pass again, on the tensors that a CUDA graph would use; that a graph does so
is tested on a GPU (``tests/contracts/test_devices.py``).
"""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from runs import LENGTHS, assert_equal, branches_of, every_method, make, run

import tta_bench.models.graphs as graphs_module
from tta_bench.methods.base import METHODS
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.graphs import Graphs
from tta_bench.models.normalisation import BatchStatistics
from tta_bench.objectives.base import BoundNetwork


@pytest.fixture
def played(monkeypatch):
    """How often each recording has been played: forwards, backwards."""
    counts = []

    def make(recording, work, theta, inputs, queue, pool):
        count = [0, 0]
        counts.append(count)
        recording.inputs = [each.clone() for each in (theta.detach(), *inputs)]
        rows = recording.inputs[0].detach().requires_grad_(theta.requires_grad)
        made, recording.forwards = work(rows, *recording.inputs[1:])
        recording.made = [torch.empty_like(each, requires_grad=False) for each in made]
        recording.is_followed = [each.requires_grad for each in made]
        recording.slopes = [torch.empty_like(each) for each in made if each.requires_grad]
        recording.gradient = torch.empty_like(theta)

        def forth():
            count[0] += 1
            with torch.set_grad_enabled(theta.requires_grad):
                recording.kept, _ = work(rows, *recording.inputs[1:])
            for place, each in zip(recording.made, recording.kept, strict=True):
                place.copy_(each.detach())

        def back():
            count[1] += 1
            followed = [each for each in recording.kept if each.requires_grad]
            recording.gradient.copy_(torch.autograd.grad(followed, rows, recording.slopes)[0])

        recording.forth = SimpleNamespace(replay=forth, pool=lambda: None)
        recording.back = SimpleNamespace(replay=back)
        recording.is_made = True

    monkeypatch.setattr(graphs_module._Recording, "make", make)
    return counts


@every_method
def test_a_method_gives_the_same_by_recorded_passes(small_net, streams, usual, name, played):
    network = AdaptableNetwork(small_net, branches_of(name))
    network.graphs = Graphs()
    assert_equal(usual(name), run(make(name, network), streams), atol=1e-12)
    assert network.forwards == METHODS.get(name).card.forwards * max(LENGTHS.values())
    if name in ("grata", "no_adapt", "tent"):
        assert any(forwards for forwards, _ in played)


def passes(network, images, theta):
    return network(images, theta.clone().requires_grad_())


@pytest.fixture
def network(small_net):
    made = AdaptableNetwork(small_net)
    made.graphs = Graphs()
    return made


def test_a_pass_whose_gradient_is_open_is_not_overwritten(network, images, played):
    theta = network.source_theta[None]
    for _ in range(2):
        passes(network, images[:1], theta).sum().backward()
    rows = [theta.clone().requires_grad_() for _ in range(2)]
    logits = [network(each, row) for each, row in zip(images[:2].split(1), rows, strict=True)]
    forwards = played[0][0]
    found = [torch.autograd.grad(each.square().sum(), row)[0] for each, row in zip(logits, rows, strict=True)]
    network.graphs = None
    for each, image in zip(found, images[:2].split(1), strict=True):
        row = theta.clone().requires_grad_()
        (expected,) = torch.autograd.grad(network(image, row).square().sum(), row)
        torch.testing.assert_close(each, expected)
    assert forwards == 2, "the second of two open passes was played"


def test_nothing_is_played_in_the_memory_of_a_pass_whose_gradient_is_open(network, images, played):
    theta = network.source_theta[None]
    for _ in range(3):
        passes(network, images[:1], theta).sum().backward()
        with torch.no_grad():
            expected = network(images[:1], theta)
    before = [list(count) for count in played]
    opened = passes(network, images[1:2], theta)
    with torch.no_grad():
        assert torch.equal(network(images[:1], theta), expected)
    assert [forwards for forwards, _ in played] == [before[0][0] + 1, before[1][0]]
    opened.sum().backward()
    with torch.no_grad():
        network(images[:1], theta)
    assert played[1][0] == before[1][0] + 1


def test_what_cannot_be_recorded_is_computed(network, images, monkeypatch):
    monkeypatch.setattr(graphs_module._Recording, "make", _refuse)
    theta = network.source_theta[None]
    made = [passes(network, images[:1], theta) for _ in range(4)]
    assert all(torch.equal(each, made[0]) for each in made)


def test_a_recording_that_is_not_played_any_more_is_given_up(network, images, played):
    theta = network.source_theta[None]
    for _ in range(3):
        passes(network, images[:2], torch.cat([theta, theta]))
    for _ in range(2 * graphs_module.STALE):
        passes(network, images[:1], theta)
    assert len(played) == 2
    assert [key[1][0][0] for key in network.graphs._seen] == [images[:1].shape]


def _refuse(*arguments):
    raise RuntimeError("operation not permitted when stream is capturing")


def test_a_copy_of_a_network_records_its_own(network, images, played):
    theta = network.source_theta[None]
    for each in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        for _ in range(3):
            passes(each, images[:1], theta).sum().backward()
    assert len(played) == 3
    network.graphs.forget()
    passes(network, images[:1], theta)
    assert len(played) == 3


def test_a_gradient_that_was_asked_for_is_not_made_of_what_is_overwritten(network, images, played):
    """A graph plays the gradient once after each pass, and it has no second derivative."""
    theta = network.source_theta[None]
    for _ in range(2):
        passes(network, images[:1], theta).sum().backward()
    row = theta.clone().requires_grad_()
    loss = network(images[:1], row).square().sum()
    (gradient,) = torch.autograd.grad(loss, row, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()
    with pytest.raises(RuntimeError, match=r"second time.*runtime\.graphs=false"):
        torch.autograd.grad(loss, row)
    assert played == [[2, 2]]


def weighted(network, images, *, weights):
    return (torch.stack([weight * network(images).mean() for weight in weights]),)


@pytest.mark.parametrize("weights", [(1.0, 2.0), [1.0, 2.0]], ids=["tuple", "list"])
def test_an_objective_with_a_setting_that_has_no_hash_is_recorded_by_its_passes(network, images, played, weights):
    bound = BoundNetwork(network, network.source_theta[None].clone().requires_grad_(), BatchStatistics())
    with torch.no_grad():
        (first, *others) = [bound.replayable(weighted, images[:1], weights=weights)[0] for _ in range(4)]
    assert all(torch.equal(each, first) for each in others)
    assert len(played) == 1
    assert network.forwards == 4 * 2
