"""Delivery: what arrived is known per destination, and nothing that goes wrong there reaches a result."""

import json
import time
from dataclasses import replace

import pytest

from made_tables import finish, planned
from tta_bench.sinks import delivery
from tta_bench.sinks.about import about_cell
from tta_bench.sinks.base import SINKS, Point
from tta_bench.sinks.contents import points_of
from tta_bench.sinks.delivery import Live, send, unsent, unsent_sentences
from tta_bench.sinks.sync import synchronise, waiting

THERE = {"kept": {"path": "a"}}


def raising(error):
    def during():
        raise error

    return staticmethod(during)


def test_each_destination_gets_the_same_results_once(cell, about, kept):
    folder = cell.folder().path
    for path in ("a", "b") * 2:
        send({"kept": {"path": path}}, about, folder)
        assert not list(unsent({"kept": {"path": path}}, folder))
    assert [run.options.path for run in kept.runs] == ["a", "b"]
    for run in kept.runs:
        assert run.points == list(points_of(folder))
        assert [(point.axis, point.position) for point in run.points] == [
            (f"{t}/image", n) for t in "CD" for n in (1, 2, 3)
        ]
        assert [point.values["C/running_dice"] for point in run.points[:3]] == [50.0, 50.5, 51.0]
        assert not {name.rpartition("/")[2] for name in run.points[0].values} & {"seed", "index", "position", "image"}
        assert run.outcome.summary["dice"] == 51.0
        assert (run.outcome.summary["cost/seconds"], run.outcome.summary["cost/forwards_per_image"]) == (3.0, 2.0)


def test_changed_results_are_sent_again(cell, about, kept):
    folder = cell.folder().path
    send(THERE, about, folder)
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"skipped_updates": 3}))
    assert list(unsent(THERE, folder))
    send(THERE, about, folder)
    assert [run.outcome.summary["cost/skipped_updates"] for run in kept.runs] == [0, 3]


@pytest.mark.parametrize("broken", ["", "{", "null", "[1, {}]", '{"destinations": 3}', '{"destinations": {"a": 1}}'])
def test_a_broken_record_is_no_acknowledgement(cell, about, kept, broken, tmp_path):
    folder = cell.folder().path
    (folder / "sinks.json").write_text(broken)
    assert list(unsent(THERE, folder))
    assert list(waiting(tmp_path)) == []
    send(THERE, about, folder)
    assert len(kept.runs) == 1
    assert not list(unsent(THERE, folder))


def test_a_missing_library_is_told_with_its_remedy_and_sent_to_later(cell, about, kept, monkeypatch):
    folder = cell.folder().path
    monkeypatch.setitem(SINKS._items, "kept", replace(SINKS.get("kept"), extra="kept"))
    with monkeypatch.context() as uninstalled:
        uninstalled.setattr(kept, "opening", raising(ModuleNotFoundError("No module named 'kept'")))
        send(THERE, about, folder)
        assert [why for _, why in unsent(THERE, folder)] == ["No module named 'kept': pip install 'tta-bench[kept]'"]
    assert not kept.runs
    assert synchronise(folder.parents[1]) == (1, [])
    assert synchronise(folder.parents[1]) == (0, [])
    assert len(kept.runs) == 1


@pytest.mark.parametrize("when", ["opening", "during"])
@pytest.mark.parametrize(
    "error", [OSError("no route"), SystemExit(1), KeyError(), RuntimeError("two\nlines"), KeyboardInterrupt()]
)
def test_what_a_sink_raises_is_written_down_and_synchronise_sends(cell, about, kept, error, when, tmp_path):
    folder = cell.folder().path
    setattr(kept, when, raising(error))
    send(THERE, about, folder)
    why = str(error).split("\n")[0] or type(error).__name__
    assert list(unsent(THERE, folder)) == [("kept", why)]
    assert synchronise(tmp_path) == (0, [f"A list lacks 1 run ({why}): {folder}"])
    setattr(kept, when, staticmethod(lambda: None))
    assert synchronise(tmp_path) == (1, [])
    assert kept.runs[-1].about == about
    assert synchronise(tmp_path) == (0, [])


def test_what_was_kept_offline_is_sent_online_once(cell, about, kept, tmp_path):
    send({"kept": {"path": "a", "mode": "offline"}}, about, cell.folder().path)
    assert synchronise(tmp_path) == (1, [])
    assert synchronise(tmp_path) == (0, [])
    assert [run.options.mode for run in kept.runs] == ["offline", "online"]
    assert kept.runs[0].points == kept.runs[1].points


def test_telling_never_waits_and_a_hanging_network_is_waited_for_once(cell, about, kept, monkeypatch, tmp_path):
    monkeypatch.setattr(delivery, "PATIENCE", 0.2)
    monkeypatch.setattr(delivery, "SLOW", 0.1)
    kept.opening = staticmethod(lambda: time.sleep(5))
    other = planned(tmp_path, "grata", {"method": "grata"}).cell
    finish(other, lambda target, index: 50.0)
    begin = time.monotonic()
    for each in (cell, other):
        live = Live(THERE, about_cell(each.config, 0, each.folder().hash), each.folder().path)
        for number in range(1000):
            live.tell(Point("A/image", number, {"A/dice": 1.0}))
        live.finish()
        assert list(unsent(THERE, each.folder().path)) == [("kept", "no answer within 0.2 seconds")]
    assert time.monotonic() - begin < 2
    runs = [(THERE, each.folder().path) for each in (cell, other)]
    (sentence,) = unsent_sentences(runs, ["-m", "a=[1, 2]", "force=true"])
    assert sentence.startswith("A list did not take the results of 2 finished runs (no answer within 0.2 seconds)")
    assert sentence.endswith("python -m tta_bench -m 'a=[1, 2]'")
    kept.opening = staticmethod(lambda: None)
    elsewhere = {"kept": {"path": "b"}}
    send(elsewhere, about, cell.folder().path)
    assert not list(unsent(elsewhere, cell.folder().path)), "another destination"


def test_points_that_a_destination_has_are_not_sent_twice(cell, about, kept):
    kept.before = 4
    folder = cell.folder().path
    points = list(points_of(folder))
    live = Live(THERE, about, folder, going_on=True)
    for point in points:
        live.tell(point)
    live.finish()
    assert kept.runs[0].points == points[4:]


def test_a_stopped_run_is_told_so_and_acknowledges_nothing(cell, about, kept):
    live = Live(THERE, about, cell.folder().path)
    live.tell(Point("A/image", 1, {}))
    live.stop()
    assert kept.runs[0].stopped
    assert not (cell.folder().path / "sinks.json").exists()


def test_where_nothing_can_be_written_nothing_stops(cell, about, kept):
    folder = cell.folder().path
    (folder / "sinks.json").mkdir()
    send(THERE, about, folder)
    ((_, why),) = unsent(THERE, folder)
    assert "no acknowledgement is written" in why


def test_without_a_sink_nothing_is_written(cell, about):
    send({}, about, cell.folder().path)
    Live({}, about, cell.folder().path).finish()
    assert not (cell.folder().path / "sinks.json").exists()
