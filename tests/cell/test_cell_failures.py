"""Cells that fail, are killed or lie in bad places: nothing half done counts."""

import errno
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch

import forked
import tta_bench.cell as cell_module
from tiny_cells import configure, execute, folder, status
from tta_bench.cell import Cell
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS
from tta_bench.records.store import CellFolder
from tta_bench.runtime.signals import Stopped


def test_a_cell_that_raises_in_the_middle_is_failed_and_its_old_numbers_do_not_count(root, monkeypatch):
    config = configure(root, "+method=tent")
    execute(config)
    tent = METHODS.get("tent")
    adapt, calls = tent.adapt, []

    def fail_at_the_third_image(self, images, draws):
        calls.append(draws)
        if len(calls) == 3:
            raise ZeroDivisionError("in the middle")
        return adapt(self, images, draws)

    monkeypatch.setattr(tent, "adapt", fail_at_the_third_image)
    with pytest.raises(ZeroDivisionError):
        execute(configure(root, "+method=tent", "force=true"))
    assert status(config)["status"] == "failed"
    assert status(config)["error"] == "ZeroDivisionError: in the middle"
    assert Cell(config, 0).folder().finished() is None
    log = (folder(config) / "run.log").read_text()
    assert "Traceback" in log
    assert "fail_at_the_third_image" in log
    monkeypatch.undo()
    execute(config)
    assert status(config)["status"] == "done"


def test_a_cell_that_never_finished_has_no_results(root, monkeypatch):
    config = configure(root, "+method=tent")
    monkeypatch.setattr(METHODS.get("tent"), "adapt", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        execute(config)
    assert {path.name for path in folder(config).iterdir()} - {".lock"} == {"config.yaml", "run.log", "status.json"}
    assert status(configure(root, "+method=no_adapt"))["status"] == "done", "the reference stays"


KILLED = """
import os, signal
import tiny_cells
from tta_bench.methods.base import METHODS
tent = METHODS.get("tent")
adapt, calls = tent.adapt, []
def kill(self, images, draws):
    calls.append(draws)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return adapt(self, images, draws)
tent.adapt = kill
tiny_cells.execute(tiny_cells.configure({root!r}, "+method=tent"))
"""


def test_a_killed_run_leaves_running_and_the_next_one_computes_it(root, computed):
    killed = forked.run("-c", KILLED.format(root=str(root)))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    config = configure(root, "+method=tent")
    assert status(config)["status"] == "running"
    assert not (folder(config) / "per_image.csv").exists()
    assert Cell(config, 0).folder().finished() is None
    execute(config)
    assert computed == ["tent"], "the reference was finished before"
    assert status(config)["status"] == "done"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Stopped(signal.SIGTERM)])
def test_a_signal_after_the_results_are_complete_leaves_them_done(root, computed, monkeypatch, error):
    config = configure(root, "+method=no_adapt", "force=true")

    def struck(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(CellFolder, "delete_leftovers", struck)
        with pytest.raises(type(error)):
            execute(config)
    assert status(config)["status"] == "done"
    execute(configure(root, "+method=no_adapt"))
    assert computed == ["no_adapt"], "once"


def test_a_signal_before_the_status_is_written_leaves_an_old_result_done(root, monkeypatch):
    config = configure(root, "+method=tent", "force=true")
    execute(config)

    def struck(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(CellFolder, "start", struck)
    with pytest.raises(KeyboardInterrupt):
        execute(config)
    assert status(config)["status"] == "done"


def test_what_a_killed_run_left_beside_a_finished_cell_is_removed(root):
    config = configure(root, "+method=tent")
    execute(config)
    before = {path.name for path in folder(config).iterdir()}
    left = ("snapshot.pt", ".snapshot.pt.77", ".status.json.123", ".per_image.csv.123", ".predictions.npz.4")
    for name in left:
        (folder(config) / name).touch()
    execute(config)
    assert {path.name for path in folder(config).iterdir()} == before


def test_a_file_in_the_place_of_the_results_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another folder with results_root=DIR"):
        execute(configure(tmp_path / "file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_results_folder_without_permission_is_a_sentence(tmp_path):
    (tmp_path / "results").mkdir(mode=0o500)
    with pytest.raises(UserError, match="choose another folder with results_root=DIR"):
        execute(configure(tmp_path / "results"))


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (errno.ENOSPC, "config.yaml"),
        (errno.ENOSPC, "per_image.csv"),
        (errno.ENOSPC, "predictions.npz"),
        (errno.ENOSPC, "summary.json"),
        (errno.EACCES, "per_image.csv"),
    ],
)
def test_a_disk_that_takes_no_more_is_a_sentence_and_nothing_half_written(root, monkeypatch, code, name):
    config = configure(root, "+method=no_adapt")
    write = Path.write_bytes

    def refuse(self, content):
        if self.name.startswith(f".{name}"):
            write(self, content[: len(content) // 2])
            raise OSError(code, os.strerror(code))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UserError, match=re.escape(f"cannot write to {folder(config)}: ")) as refused:
        execute(config)
    assert len(refused.value.faults) == 1
    assert {path.name for path in folder(config).iterdir()} <= {
        ".lock",
        "config.yaml",
        "run.log",
        "status.json",
        "per_image.csv",
        "predictions.npz",
    }
    assert Cell(config, 0).folder().finished() is None
    monkeypatch.undo()
    execute(config)
    assert status(config)["status"] == "done"


def test_a_folder_in_the_place_of_the_log_is_moved_aside(root):
    config = configure(root, "+method=no_adapt")
    (folder(config) / "run.log").mkdir(parents=True)
    execute(config)
    assert status(config)["status"] == "done"
    assert (folder(config) / "run.log.aside").is_dir()


def test_no_space_for_the_source_model_is_a_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cell_module, "source_model", full)
    with pytest.raises(UserError, match="no space is left on its disk: free some, or choose another folder"):
        execute(configure(tmp_path, "+method=no_adapt"))


def _run_elsewhere(root, queue):
    torch.set_num_threads(1)
    seen = []
    compute = cell_module.compute

    def spy(members, *args):
        seen.append(members[0].config.method["name"])
        time.sleep(0.5)
        return compute(members, *args)

    cell_module.compute = spy
    printed = execute(configure(root, "+method=tent"))
    queue.put((seen, printed))


def test_two_processes_on_the_same_cell_compute_it_once(root):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_run_elsewhere, args=(root, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(name for seen, _ in results for name in seen) == ["no_adapt", "tent"]
    assert results[0][1] == results[1][1]
