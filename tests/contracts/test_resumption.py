"""A method that goes on from its ``state_dict`` in a fresh process cannot be told from one that never stopped."""

import io
from collections import deque
from typing import NamedTuple

import pytest
import torch
from settings import options_of
from torch import nn

from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS, Card, Method, Protocol
from tta_bench.methods.state import State
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import BatchStatistics, RunningStatistics
from tta_bench.ops.draws import ImageKey

LENGTHS = {"B": 4, "C": 3}

every_method = pytest.mark.parametrize("name", METHODS.names())


@pytest.fixture(scope="module")
def streams(images):
    """Two streams of 4 and 3 images."""
    return dict(zip(LENGTHS, images[: sum(LENGTHS.values())].split(tuple(LENGTHS.values())), strict=True))


def make(name, small_net, protocol, **overrides):
    """A method with its canonical options, and a network of its own."""
    options = options_of(name, **overrides)
    kind = METHODS.get(name)
    return kind(AdaptableNetwork(small_net, kind.branches(options)), options, protocol)


def steps(method, streams, places):
    """What comes out of the given places of the streams, side by side."""
    results = []
    for k in places:
        active = [domain for domain, images in streams.items() if k < len(images)]
        batch = torch.stack([streams[domain][k] for domain in active])
        result = method.step(batch, [ImageKey(0, domain, f"image{k}") for domain in active])
        results.append((result.logits, result.diagnostics))
    return results


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(first, second):
    """Equal bit by bit, NaN included."""
    return all(
        torch.equal(a[0], b[0])
        and {k: list(map(repr, v)) for k, v in a[1].items()} == {k: list(map(repr, v)) for k, v in b[1].items()}
        for a, b in zip(first, second, strict=True)
    )


def assert_resumes(uninterrupted, resumed, streams):
    """The law: two streams, one of which ends after the interruption."""
    uninterrupted.start(len(streams))
    steps(uninterrupted, streams, range(2))
    state = through_a_file(uninterrupted.state_dict())
    expected = steps(uninterrupted, streams, range(2, 4))
    resumed.start(len(streams))
    resumed.load_state_dict(state)
    assert same(steps(resumed, streams, range(2, 4)), expected)
    assert (resumed.backwards, resumed.skipped) == (uninterrupted.backwards, uninterrupted.skipped)
    first, second = (method.state_dict() for method in (resumed, uninterrupted))
    for key in [key for key in first if key.endswith("_extra_state")]:
        assert first[key].pop("kind", None) == second[key].pop("kind", None)
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True, check_dtype=True)


@every_method
@pytest.mark.parametrize("protocol", [Protocol(), Protocol(steps=2, predict="before")], ids=["after", "before"])
def test_resumed_equals_uninterrupted(small_net, streams, name, protocol):
    assert_resumes(*(make(name, small_net, protocol) for _ in range(2)), streams)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("detta", {"running_momentum": 0.1}),
        ("grata", {"optimizer": "sgd", "momentum": 0.9}),
        ("grata", {"optimizer": "sgd", "momentum": 0.99, "nesterov": True}),
        ("dua", {"max_updates": 3}),
        ("dltta", {"compared_network": "source"}),
    ],
    ids=["running statistics", "momentum of SGD", "Nesterov's momentum", "number of updates", "memory of the source"],
)
def test_state_that_other_options_bring_into_play_is_kept(small_net, streams, name, overrides):
    assert_resumes(*(make(name, small_net, Protocol(), **overrides) for _ in range(2)), streams)


@pytest.mark.parametrize("name", ["tent", "memo", "dltta"])
def test_with_a_reset_at_every_image_the_counters_alone_are_kept(small_net, streams, name):
    methods = [make(name, small_net, Protocol(episodic=True)) for _ in range(2)]
    assert_resumes(*methods, streams)
    assert methods[0].state_dict() == {
        "_extra_state": {"kind": methods[0].kind, "backwards": methods[0].backwards, "skipped": 0}
    }


@pytest.mark.parametrize("name", ["tent", "dltta", "vptta", "cotta"])
def test_one_state_serves_two_methods(small_net, streams, name):
    method = make(name, small_net, Protocol())
    method.start(len(streams))
    steps(method, streams, range(2))
    state = method.state_dict()
    results = []
    for _ in range(2):
        other = make(name, small_net, Protocol())
        other.start(len(streams))
        other.load_state_dict(state)
        results.append(steps(other, streams, range(2, 4)))
    assert same(*results)


def test_without_the_state_the_rest_differs(small_net, streams):
    """What the law would miss if it compared nothing: a fresh start in mid-stream."""
    expected, forgetful = (make("dltta", small_net, Protocol()) for _ in range(2))
    expected.start(2)
    forgetful.start(2)
    assert not same(steps(expected, streams, range(4))[2:], steps(forgetful, streams, range(2, 4)))


def test_skipped_updates_are_counted_on(small_net, streams):
    broken = {domain: images.clone() for domain, images in streams.items()}
    broken["B"][1] = float("nan")
    first, resumed = (make("tent", small_net, Protocol()) for _ in range(2))
    first.start(2)
    steps(first, broken, range(2))
    resumed.start(2)
    state = through_a_file(first.state_dict())
    resumed.load_state_dict(state)
    assert resumed.skipped == 1
    steps(first, broken, [1, 1])  # nobody has asked for their numbers yet
    first.load_state_dict(state)
    assert first.skipped == 1


class Plugin(Method):
    """A method that keeps its state in whatever came to hand, and says nothing of how to keep it."""

    card = Card("everything", "test image", False, True, 1, 1, "a test", "-")

    def start(self, streams):
        super().start(streams)
        self.rows = self.source_theta.repeat(streams, 1)
        self.prompt = nn.Parameter(self.source_theta.new_zeros(3))
        self.optimizer = torch.optim.Adam([self.prompt], lr=0.1)
        self.means = State(mean=self.network.source_statistics[0].repeat(streams, 1), scale=nn.Linear(3, 3).double())
        self.count, self.sums = 0, []
        self.past = {}
        self.last = None

    def adapt(self, images, draws):
        colours = images.mean(dim=(0, 2, 3))
        self.prompt.grad = self.prompt.detach() - colours
        self.optimizer.step()
        self.means.scale.weight.mul_(0.9)
        self.count += len(images)
        self.sums.append(colours)
        if self.last is not None:
            self.rows = self.rows * (1 + 0.1 * self.last.mean())
        self.means.mean.mul_(1.1)
        self.last = self.past[draws.keys[0].image] = colours
        value = float(sum(self.sums).sum() + len(self.past) + self.count)
        return {"value": images.new_full((len(images),), value)}

    def predict(self, images):
        count = len(images)
        means = RunningStatistics(self.means.mean[:count], torch.ones_like(self.means.mean[:count]))
        shift = self.means.scale(self.prompt)[:, None, None].detach()
        return self.network(images + shift, self.rows[:count], means)


def plugin(small_net):
    torch.manual_seed(0)  # of the weights that start makes
    return Plugin(AdaptableNetwork(small_net))


def test_a_plugin_resumes_without_a_line_of_its_own(small_net, streams):
    assert_resumes(plugin(small_net), plugin(small_net), streams)


class Pair(NamedTuple):
    """Would come back as a plain tuple."""

    left: int
    right: int


@pytest.mark.parametrize(
    "value", [torch.Generator(), deque([1]), Pair(1, 2), object(), {"a": [object()]}, BatchStatistics()]
)
def test_what_cannot_be_kept_is_refused_where_it_is_assigned(small_net, value):
    class Forgetful(Plugin):
        def start(self, streams):
            super().start(streams)
            self.memory = value

    class Careful(Forgetful):
        transient = frozenset({"memory"})

    network = AdaptableNetwork(small_net)
    sentence = rf"Forgetful\.memory is a {type(value).__name__}, which cannot be saved: .* name it in transient"
    with pytest.raises(TypeError, match=sentence):
        Forgetful(network).start(1)
    method = Careful(network)
    method.start(1)
    assert "memory" not in method.state_dict()["_extra_state"]


@every_method
def test_constants_are_not_saved(small_net, name):
    method = make(name, small_net, Protocol())
    before = vars(method).keys() | method._buffers.keys() | method._modules.keys()
    method.start(2)
    saved = method.state_dict()
    assert (saved.keys() | saved["_extra_state"].keys()) & before <= {"kind", "backwards", "_skipped", "_extra_state"}
    assert not any(key.startswith("network.") for key in saved)


@every_method
@pytest.mark.parametrize("streams_before", [0, 1])
def test_a_state_brings_its_number_of_streams(small_net, streams, name, streams_before):
    first, fresh = (make(name, small_net, Protocol()) for _ in range(2))
    first.start(2)
    steps(first, streams, range(1))
    if streams_before:
        fresh.start(streams_before)
    fresh.load_state_dict(through_a_file(first.state_dict()))
    assert same(steps(fresh, streams, range(1, 4)), steps(first, streams, range(1, 4)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: {},
        lambda state: {**state, "_extra_state": {**state["_extra_state"], "kind": "CoTTA"}},
        lambda state: {**state, "layer.weight": torch.zeros(2)},
        lambda state: {**state, "state.theta": state["state.theta"][:, 1:]},
    ],
)
def test_a_state_of_another_method_is_refused_in_one_sentence(small_net, spoil):
    method = make("tent", small_net, Protocol())
    method.start(1)
    state = method.state_dict()
    with pytest.raises(UserError, match="this is no state of Tent on such a network in this version: start afresh"):
        method.load_state_dict(spoil(state))
