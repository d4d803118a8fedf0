"""A real cell is followed live: nothing of its results changes, and one that was killed goes on as the same run."""

import pytest

import tta_bench.records.snapshots as snapshots
from tiny_cells import configure, execute, folder, numbers
from tta_bench.methods.base import Method
from tta_bench.sinks.contents import points_of


def test_a_followed_cell_has_the_same_numbers_and_goes_on_as_the_same_run(tmp_path, kept, monkeypatch):
    monkeypatch.setattr(snapshots, "SNAPSHOT_SECONDS", 0)
    monkeypatch.setattr(snapshots, "SNAPSHOT_SHARE", float("inf"))
    words = ("+method=tent", "target=A,C", "method.learning_rate=1e-3")
    plain = configure(tmp_path / "plain", *words)
    execute(plain)
    config = configure(tmp_path / "followed", *words)
    config = config.model_copy(update={"logger": {"kept": {"path": "a"}}, "group": "mine"})
    step, seen = Method.step, []

    def dying(self, *given):
        seen.extend([self] * (type(self).__name__ == "Tent"))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return step(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Method, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            execute(config)
    training, reference, killed = kept.runs
    assert [run.about.job for run in kept.runs] == ["training", "cell", "cell"]
    assert training.points
    assert killed.stopped
    execute(config)
    going_on = kept.runs[-1]
    assert (going_on.about, going_on.going_on) == (killed.about, True)
    assert len(kept.runs) == 4, "what has arrived is not sent again"
    assert "tent lr=1e-3" in going_on.about.name
    assert going_on.about.group == "mine"
    assert going_on.about.config["method"]["learning_rate"] == 1e-3
    assert numbers(config) == numbers(plain)
    assert sorted(going_on.points) == sorted(points_of(folder(config)))
    assert killed.points == going_on.points[: len(killed.points)]
    assert set(going_on.outcome.pictures) == {"A", "C"}
    gain = going_on.outcome.summary["dice"] - reference.outcome.summary["dice"]
    assert going_on.outcome.summary["compared/gain_over_no_adapt"] == gain
