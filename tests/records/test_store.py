"""A cell's folder: whole files or none, and a status that can be trusted."""

import errno
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from tta_bench.errors import UserError
from tta_bench.records.predictions import Predictions, read_predictions
from tta_bench.records.store import CellFolder, cell_hash
from tta_bench.runtime.files import leftovers, translate_os_errors, write_atomically

ROWS = [
    {"source": "D", "target": "A", "method": "tent", "index": 0, "image": 'a, "b"\nü', "dice_disc": 0.1 + 0.2}
    | {"dice": 0.1 + 0.2, "position": 1, "seconds": 0.5},
    {"source": "D", "target": "A", "method": "tent", "index": 1, "image": "c", "dice_disc": 1, "dice": 1}
    | {"position": 0, "seconds": 0.5, "extra": 1},
]
MEAN = (0.1 + 0.2 + 1) / 2
SUMMARY = {
    "method": "tent",
    "source": "D",
    "seed": 0,
    "protocol": {"reset": "target"},
    "targets": {"A": {"n": 2, "dice_disc": MEAN, "dice": MEAN, "seconds_per_image": 0.5}},
    "dice": MEAN,
    "skipped_updates": 0,
    "seconds_per_image": 0.5,
    "forwards_per_image": 2,
    "backwards_per_image": 1,
    "peak_memory_mb": 100.5,
    "source_checkpoint": {"path": "model.ckpt", "sha256": "ab", "dice_in_domain": None},
    "data": {"A": "cd"},
    "versions": {},
}
PREDICTIONS = {"A": Predictions.of([np.eye(3, 5, k=k, dtype=bool)[None] for k in range(2)])}


@pytest.fixture
def cell(tmp_path):
    return CellFolder(tmp_path / "cells" / "0123456789abcdef")


def files(path):
    return {each.name for each in path.iterdir()}


def test_the_hash_depends_on_the_content_and_not_on_its_order():
    assert cell_hash({"a": 1, "b": {"c": (1, 2)}}) == cell_hash({"b": {"c": [1, 2]}, "a": 1})
    assert len({cell_hash({"a": value}) for value in (1, 2, "1", 1.5, None, [1], {})}) == 7
    assert len(cell_hash({})) == 16


def test_a_cell_goes_from_nothing_over_running_to_done(cell):
    assert (cell.status(), cell.finished(), cell.hash) == (None, None, "0123456789abcdef")
    cell.start({"source": "D", "target": ["A"]})
    assert (cell.status(), cell.finished()) == ("running", None)
    assert yaml.safe_load((cell.path / "config.yaml").read_text()) == {"source": "D", "target": ["A"]}
    cell.finish(ROWS, PREDICTIONS, SUMMARY)
    assert (cell.status(), cell.finished()[0]) == ("done", SUMMARY)
    assert files(cell.path) == {"config.yaml", "per_image.csv", "predictions.npz", "status.json", "summary.json"}


def test_rows_come_back_with_all_digits_and_any_name(cell):
    cell.start({})
    cell.finish(ROWS, PREDICTIONS, SUMMARY)
    first, second = cell.finished()[1]
    assert (first["image"], first["dice"], first["extra"]) == ('a, "b"\nü', "0.30000000000000004", "")
    assert float(first["dice"]) == 0.1 + 0.2
    assert (second["image"], second["dice"], second["extra"]) == ("c", "1", "1")


def test_predictions_come_back_bit_by_bit_and_an_unknown_target_is_a_key_error(cell):
    masks = np.random.default_rng(0).random((3, 2, 5, 7)) < 0.5
    cell.start({})
    cell.finish(ROWS, {"A": Predictions.of(masks), "C": PREDICTIONS["A"]}, {})
    path = cell.path / "predictions.npz"
    back = read_predictions(path, "A", [(2, 5, 7)] * 3)
    assert back.shapes == ((2, 5, 7),) * 3
    assert all(np.array_equal(back.mask(index), mask) for index, mask in enumerate(masks))
    assert np.array_equal(read_predictions(path, "C", [(1, 3, 5)] * 2).mask(1), np.eye(3, 5, k=1, dtype=bool)[None])
    with pytest.raises(UserError, match="force=true"):
        read_predictions(path, "B", [(2, 5, 7)] * 3)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(path, "A", [(2, 5, 7)] * 3)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(path, "A", [(2, 5, 7)] * 3)


def test_a_failure_is_written_down_with_the_exception(cell):
    cell.start({})
    cell.fail(RuntimeError("out of memory"))
    content = json.loads((cell.path / "status.json").read_text())
    assert (content["status"], content["error"]) == ("failed", "RuntimeError: out of memory")
    assert content["process"] == os.getpid()
    assert content["time"].endswith("+00:00")


def test_the_old_results_do_not_count_while_a_cell_is_computed_again(cell):
    cell.start({})
    cell.finish(ROWS, PREDICTIONS, SUMMARY)
    cell.start({})
    assert cell.finished() is None
    cell.fail(KeyboardInterrupt())
    assert cell.finished() is None


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_atomically(path, "one")
    write_atomically(path, "two")
    assert path.read_text() == "two"
    assert files(path.parent) == {"file.json"}


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_folder_after(tmp_path, monkeypatch):
    path, calls = tmp_path / "file.json", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append(new), replace(old, new)))
    write_atomically(path, "one")
    assert calls == [f"{tmp_path}/.file.json.{os.getpid()}", path, str(tmp_path)]


def test_what_a_killed_writer_leaves_is_found_again(tmp_path):
    path = tmp_path / "a[1].json"
    (tmp_path / ".a[1].json.123").touch()
    (tmp_path / ".a1.json.123").touch()
    write_atomically(path, "one")
    assert list(leftovers(path)) == [tmp_path / ".a[1].json.123"]


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_atomically(path, "old")
    write = Path.write_bytes

    def full(self, content):
        write(self, content[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="no space is left on its disk: free some"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert files(tmp_path) == {"file.json"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space is left on its disk"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EACCES, "there is no permission to write there"),
        (errno.EPERM, "there is no permission to write there"),
        (errno.EROFS, "its file system is read-only"),
        (errno.ENOTDIR, "a part of its path is a file"),
        (errno.EEXIST, "a file of that name is in the way"),
    ],
)
def test_a_failing_file_system_is_a_sentence_with_a_remedy(tmp_path, code, words):
    with pytest.raises(UserError) as refused, translate_os_errors(tmp_path):
        raise OSError(code, os.strerror(code))
    (sentence,) = refused.value.faults
    assert sentence.startswith(f"cannot write to {tmp_path}: {words}")
    assert sentence.endswith("or choose another folder with results_root=DIR")


def test_an_error_that_is_no_fault_of_the_user_passes_unchanged(tmp_path):
    with pytest.raises(OSError, match="strange"), translate_os_errors(tmp_path):
        raise OSError(errno.EIO, "strange")


def test_a_file_in_the_place_of_the_cells_is_a_sentence(tmp_path):
    (tmp_path / "cells").touch()
    cell = CellFolder(tmp_path / "cells" / "hash")
    assert (cell.status(), cell.finished()) == (None, None)
    with (
        pytest.raises(UserError, match=r"a part of its path is a file|a file of that name is in the way"),
        cell.locked(),
    ):
        pass


def test_a_locked_cell_makes_others_wait_and_says_so(cell, caplog):
    entered = []

    def enter():
        with cell.locked():
            entered.append(time.monotonic())

    with caplog.at_level("INFO", logger="tta_bench"):
        with cell.locked():
            waiting = threading.Thread(target=enter)
            waiting.start()
            time.sleep(0.3)
            assert not entered
        waiting.join(10)
    assert len(entered) == 1
    assert f"waiting for another process that computes the same cell ({cell.path})" in caplog.text


def test_a_lock_is_freed_when_its_holder_raises(cell):
    with pytest.raises(ZeroDivisionError), cell.locked():
        raise ZeroDivisionError
    with cell.locked():
        pass
