"""The progress of a sweep: numbers worked out by hand, and what it tells of a results folder."""

import pytest

from tta_bench.cell import Cell
from tta_bench.launch.check import check
from tta_bench.launch.experiments import plan
from tta_bench.launch.progress import Tally, Watcher, duration, progress_line, say, watched
from tta_bench.report.write import states


@pytest.mark.parametrize(
    ("tally", "finished", "seconds", "line"),
    [
        (Tally(30), 0, 0.0, "0 of 30 cells done"),
        (Tally(30, running=2), 0, 50.0, "0 of 30 cells done, 2 running"),
        # 8 in 2 minutes are 4 a minute; 30 - 12 - 1 - 1 = 16 are left: 4 minutes
        (
            Tally(30, done=12, running=2, failed=1, stopped=1),
            8,
            120.0,
            "12 of 30 cells done, 2 running, 1 failed, 1 interrupted or killed; 4.0 a minute, about 4 min left",
        ),
        # 2 in 4 hours are half a cell an hour; 3 are left: 6 hours
        (Tally(5, done=2, running=1), 2, 14400.0, "2 of 5 cells done, 1 running; 0.5 an hour, about 6.0 h left"),
        (Tally(6, done=6), 3, 60.0, "6 of 6 cells done; 3.0 a minute"),
        (Tally(6, done=4, failed=2), 4, 60.0, "4 of 6 cells done, 2 failed; 4.0 a minute"),
    ],
)
def test_the_line_of_progress(tally, finished, seconds, line):
    assert progress_line(tally, finished, seconds) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (129600, "1.5 days")],
)
def test_a_duration_has_a_unit_that_fits(seconds, text):
    assert duration(seconds) == text


def test_what_lies_in_the_results_folder_is_told_and_every_failure_once(tmp_path, monkeypatch, capsys):
    configs = check(["+method=tent", "source=A,D", f"results_root={tmp_path}"])
    monkeypatch.setattr(Cell, "finished", lambda cell: None)
    watcher = Watcher(configs)
    tent, other = (Cell.of(config, 0).folder() for config in configs)
    with tent.locked():
        tent.start({})
        assert watcher.look() == Tally(4, running=1)
    assert watcher.look() == Tally(4, stopped=1), "running, and nobody holds it: killed"
    tent.finish([], {}, {})
    other.fail(ValueError("the first line\nthe second"))
    for _ in range(2):
        assert watcher.look() == Tally(4, done=1, failed=1)
    assert capsys.readouterr().out == (
        f"failed: tent, source D, seed 0: ValueError: the first line ({other.path / 'run.log'})\n"
    )
    other.interrupt("SIGINT")
    assert watcher.look() == Tally(4, done=1, stopped=1)


@pytest.mark.parametrize(
    ("name", "words"),
    [("table1", ["seed=0,1"]), ("table2", []), ("learning_rate", ["training.seed=0,1", "seed=0,1"]), ("settings", [])],
)
def test_a_plan_counts_each_cell_of_its_run_once_the_added_ones_among_them(name, words, tmp_path):
    words = ["source=D", *words, f"results_root={tmp_path}"]
    reached = states(plan(name, words))
    total = Watcher(check([f"experiment={name}", *words])).look().total
    assert len({(state.row, state.folder) for state in reached}) == len(reached)
    assert len({state.folder for state in reached}) == total


def test_the_speed_is_that_of_cells_and_not_of_what_was_trained_before_them(tmp_path, monkeypatch, capsys):
    (config,) = check(["+method=tent", "source=A", f"results_root={tmp_path}"])
    monkeypatch.setattr(Cell, "finished", lambda cell: None)
    clock = [0.0]
    monkeypatch.setattr("tta_bench.launch.progress.time.monotonic", lambda: clock[0])
    watcher, folder = Watcher([config]), Cell.of(config, 0).folder()
    clock[0] = 3600.0  # an hour of training
    with folder.locked():
        folder.start({})
        watcher.tell(at_once=True)
        clock[0] += 120.0
        folder.finish([], {}, {})
        watcher.tell(at_once=True)
    assert capsys.readouterr().out.splitlines() == [
        "0 of 2 cells done, 1 running",
        "1 of 2 cells done; 30.0 an hour, about 2 min left",
    ]


def test_every_line_is_one_write_and_the_first_is_there_before_all_else(tmp_path, monkeypatch):
    class Writes(list):
        write = list.append

        def flush(self):
            pass

    writes = Writes()
    monkeypatch.setattr("sys.stdout", writes)
    with watched(check(["+method=tent", "source=A", f"results_root={tmp_path}"])):
        say("source models first: 1")
    first, second, *_ = filter(None, writes)
    assert (first, second) == ("0 of 2 cells done\n", "source models first: 1\n")
