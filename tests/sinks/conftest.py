"""A finished cell, and a sink that keeps what it is given."""

import pytest

from made_tables import finish, planned
from tta_bench.sinks import delivery
from tta_bench.sinks.about import about_cell
from tta_bench.sinks.base import SINKS, Run, SinkOptions, register_sink


class KeptOptions(SinkOptions):
    path: str
    mode: str | None = None


@pytest.fixture
def kept(monkeypatch):
    """All runs of the sink ``kept``; its ``during`` is done at the end of each, ``opening`` at the beginning."""
    SINKS.names()
    monkeypatch.setattr(SINKS, "_items", dict(SINKS._items))
    monkeypatch.setattr(delivery, "_given_up", {})

    class KeptRun(Run):
        runs, before = [], 0

        def __init__(self, options, about, folder, going_on, patience):
            type(self).opening()
            self.options, self.about, self.going_on = options, about, going_on
            self.held = type(self).before if going_on else 0
            self.points, self.outcome, self.stopped = [], None, False
            self.runs.append(self)

        opening = staticmethod(lambda: None)
        during = staticmethod(lambda: None)

        def log(self, point):
            self.points.append(point)

        def finish(self, outcome):
            type(self).during()
            self.outcome = outcome

        def stop(self):
            self.stopped = True

    register_sink("kept", "A list", KeptOptions)(KeptRun)
    return KeptRun


@pytest.fixture
def cell(tmp_path):
    """A finished cell: two targets of three images."""
    one = planned(tmp_path, "tent", {"method": "tent"}).cell
    finish(one, lambda target, index: 50.0 + index)
    return one


@pytest.fixture
def about(cell):
    return about_cell(cell.config, cell.seed, cell.folder().hash)
