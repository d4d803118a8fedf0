"""Beside a GPU images are read, drawn for and scored by threads: what is left behind is what one thread leaves."""

import copy
import time

import numpy as np
import pytest
import pytorch_lightning as pl
from test_lockstep import _terminal, domains, lived_through  # noqa: F401

from tta_bench.adaptation import runner, scoring
from tta_bench.adaptation.resumption import Resumption
from tta_bench.adaptation.scoring import BEHIND, Scoring
from tta_bench.data.domain import Domain
from tta_bench.data.streams import LockstepGroups, passes
from tta_bench.methods.base import METHODS
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.masks import Finish


@pytest.fixture
def beside_a_gpu(monkeypatch):
    """Lets the runner and the scoring do as beside a GPU."""

    def begin():
        for module in (runner, scoring):
            monkeypatch.setattr(module, "is_gpu", lambda device: True)

    return begin


@pytest.mark.parametrize(("width", "memory", "after"), [(1, None, 0), (4, 2, 6)])
def test_the_same_is_left(small_net, domains, beside_a_gpu, width, memory, after):  # noqa: F811
    expected, counters, told, groups = lived_through(small_net, domains, width, memory, after)
    beside_a_gpu()
    found, *others = lived_through(small_net, domains, width, memory, after)
    assert [*found] == [*expected]
    assert others[::2] == [counters, groups]
    assert sorted(others[1], key=str) == sorted(told, key=str), "each image once"
    for place, record in found.items():
        assert repr((record.scores, record.diagnostics, record.empty)) == repr(
            (expected[place].scores, expected[place].diagnostics, expected[place].empty)
        )
        assert (record.prediction.bits == expected[place].prediction.bits).all()


class Slow(Domain):
    """Its masks take longer than a step; the fifth cannot be read."""

    def truth(self, index):
        time.sleep(0.05)
        if index == 5:
            raise OSError("the mask is gone")
        return super().truth(index)


class Keeping:
    """Keeps every snapshot: how many images its state and its records are of."""

    def __init__(self):
        self.kept = []

    def keep(self, snapshot):
        made = snapshot()
        self.kept.append((made.steps, len(made.records)))


class Waiting(pl.Callback):
    """Notes how many batches wait to be scored."""

    def __init__(self, scoring):
        self.scoring = scoring
        self.counts = []

    def on_test_batch_end(self, *_):
        self.counts.append(len(self.scoring._waiting))


def run_along(small_net, count, keep):
    """The scoring, what waited and the snapshots of a run along slow masks, and what it raised."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    slow = {
        "A": Slow("A", tuple(map(str, range(count))), pixels, pixels[..., 0] // 200, {"disc": (1,), "cup": (0,)}, "")
    }
    method = METHODS.get("no_adapt")(AdaptableNetwork(copy.deepcopy(small_net).float()))
    groups, looks = LockstepGroups(passes(slow, ["A"])), Scoring(slow, Finish("sigmoid", 0.5), ["dice"])
    waiting, snapshots = Waiting(looks), Keeping()
    observers = [looks, waiting, *([Resumption(snapshots, method, looks, [groups])] if keep else [])]
    try:
        runner.adapt_streams(method, slow, groups, seeds=[0], observers=observers)
    except OSError as error:
        return looks, waiting.counts, snapshots.kept, error
    return looks, waiting.counts, snapshots.kept, None


def test_scoring_stays_a_few_batches_behind_and_is_done_at_the_end(small_net, beside_a_gpu):
    beside_a_gpu()
    looks, waited, _, error = run_along(small_net, 5, keep=False)
    assert error is None
    assert waited == [1, BEHIND, BEHIND, BEHIND, 0]
    assert [record.place.index for record in looks.records] == [0, 1, 2, 3, 4]


def test_a_snapshot_has_the_records_of_all_images_that_its_state_has_seen(small_net, beside_a_gpu):
    beside_a_gpu()
    _, _, kept, _ = run_along(small_net, 5, keep=True)
    assert kept == [(n, n) for n in (1, 2, 3, 4)]


@pytest.mark.parametrize("keep", [False, True])
def test_what_fails_in_the_thread_ends_the_run_and_nothing_of_the_group_is_left(small_net, beside_a_gpu, keep):
    beside_a_gpu()
    looks, _, _, error = run_along(small_net, 8, keep)
    assert str(error) == "the mask is gone"
    assert looks.records == []
    assert not looks._waiting
