"""Streams side by side: as many as fit, without a trace in what they leave."""

import copy
import io
from itertools import count

import numpy as np
import pytest
import torch
from rich.console import Console

import tta_bench.adaptation.progress as progress_module
from tiny_cells import configure, execute, folder, numbers, summary
from tta_bench.adaptation import lockstep
from tta_bench.adaptation.counters import Counters
from tta_bench.adaptation.progress import progress_bar
from tta_bench.adaptation.runner import adapt_streams
from tta_bench.adaptation.scoring import Scoring
from tta_bench.adaptation.telling import Telling
from tta_bench.data.domain import Domain
from tta_bench.data.streams import LockstepGroups, passes
from tta_bench.methods.base import METHODS
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.masks import Finish
from tta_bench.runtime.numerics import placement

COUNTS = {"A": 4, "B": 3, "C": 3, "D": 2, "E": 1}


class Exact(Domain):
    """Images of 64 bits."""

    def levels(self, index):
        return super().levels(index).double()


@pytest.fixture(scope="module")
def domains():
    draw = np.random.default_rng(0)
    return {
        name: Exact(
            name,
            tuple(map(str, range(n))),
            draw.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8),
            draw.integers(0, 2, (n, 64, 64), dtype=np.uint8),
            {"disc": (1,), "cup": (0,)},
            "",
        )
        for name, n in COUNTS.items()
    }


def lived_through(small_net, domains, width, memory=None, after=0):
    """Records, counters and places that were told of, where memory is for so many streams after some steps."""
    network = AdaptableNetwork(copy.deepcopy(small_net))
    method, calls = METHODS.get("grata")(network), count()

    def limited(module, inputs):
        if memory is not None and len(inputs[1]) > memory and next(calls) >= after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    network.register_forward_pre_hook(limited)
    groups = LockstepGroups(passes(domains, list(COUNTS)), width)
    scoring, told = Scoring(domains, Finish("sigmoid", 0.5), ["dice"]), []
    with progress_bar("", sum(COUNTS.values()), scoring.records) as progress:
        observers = [scoring, Telling(scoring, lambda record: told.append(record.place)), progress]
        adapt_streams(method, domains, groups, seeds=[3], observers=observers)
        (task,) = progress.bar.tasks
        assert task.completed == task.total == len(scoring.records)
    records = {record.place: record for record in scoring.records}
    assert len(records) == len(scoring.records)
    forwards, backwards, skipped = Counters.of(method)
    row = groups.images_in_a_row()
    return records, (forwards / row, backwards / row, skipped), told, groups.sizes


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    monkeypatch.setattr(progress_module, "Console", lambda: Console(file=io.StringIO(), force_terminal=True))


@pytest.fixture(scope="module")
def alone(small_net, domains):
    return lived_through(small_net, domains, 1)


@pytest.mark.parametrize(
    ("width", "memory", "after", "sizes"),
    [(4, None, 0, [4, 1]), (4, 2, 0, [2, 2, 1]), (5, 2, 6, [2, 2, 1]), (3, 1, 6, [1] * 5)],
)
def test_streams_leave_the_same_however_many_fit(small_net, domains, alone, caplog, width, memory, after, sizes):
    records, counted, told, found = lived_through(small_net, domains, width, memory, after)
    assert found == sizes
    assert ("do not fit" in caplog.text) == (memory is not None)
    assert sorted(told, key=str) == sorted(records, key=str), "each image once"
    assert counted == alone[1]
    assert records.keys() == alone[0].keys()
    for place, record in records.items():
        expected = alone[0][place]
        assert record.scores == expected.scores
        assert (record.prediction.mask(0) == expected.prediction.mask(0)).all()
        assert record.diagnostics == pytest.approx(expected.diagnostics, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(("width", "error"), [(1, torch.OutOfMemoryError), (4, torch.OutOfMemoryError)])
def test_one_stream_that_does_not_fit_is_an_error(small_net, domains, width, error):
    with pytest.raises(error):
        lived_through(small_net, domains, width, memory=0)


def test_any_other_error_is_not_tried_again(small_net, domains, monkeypatch):
    calls = []
    monkeypatch.setattr(METHODS.get("grata"), "adapt", lambda *_: calls.append(1) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lived_through(small_net, domains, 4)
    assert len(calls) == 1


@pytest.mark.parametrize("width", [1, 2])
def test_a_step_that_is_tried_leaves_no_trace_in_a_cell(tmp_path, monkeypatch, width):
    """``lockstep=auto`` where a device gains by several: as many as there is memory for, measured by one step."""
    tried = []
    config = configure(tmp_path, "+method=grata", f"lockstep={width}")
    execute(config)
    expected, costs = numbers(config), summary(config)

    def measured(work, device):
        tried.append(work())
        if width == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return 2**30

    monkeypatch.setattr(lockstep, "placement", lambda device: placement(torch.device("meta")))
    monkeypatch.setattr(lockstep, "bytes_taken", measured)
    monkeypatch.setattr(lockstep, "free_memory", lambda device, processes: 5 * 2**30 // processes)
    auto = configure(tmp_path, "+method=grata", "lockstep=auto", "force=true")
    assert folder(auto) == folder(config)
    execute(auto)
    assert len(tried) == 2, "the method and its reference"
    assert numbers(auto) == expected
    for cost in ("forwards_per_image", "backwards_per_image", "skipped_updates"):
        assert summary(auto)[cost] == costs[cost]
