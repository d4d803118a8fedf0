"""A cell that was killed in mid-stream goes on where it stopped, to the numbers of one that was not."""

import errno
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

import forked
import tta_bench.adaptation.part as part
import tta_bench.records.snapshots as snapshots
from tiny_cells import configure, execute, folder, interrupted, numbers, status, summary
from tta_bench.data.streams import StreamImage
from tta_bench.methods.base import METHODS
from tta_bench.records.predictions import Predictions
from tta_bench.records.scores import ImageRecord
from tta_bench.records.snapshots import Snapshot, SnapshotFile, code_digest

RUN = """
import os, signal
import tiny_cells
import tta_bench.records.snapshots as snapshots
from tta_bench.records.snapshots import SnapshotFile
snapshots.SNAPSHOT_SECONDS = 0
snapshots.SNAPSHOT_SHARE = float("inf")
keep, calls = SnapshotFile.keep, []
def kill(self, snapshot):
    keep(self, snapshot)
    calls.append(snapshot)
    if len(calls) == {kill_after}:
        os.kill(os.getpid(), signal.SIGKILL)
SnapshotFile.keep = kill
tiny_cells.execute(tiny_cells.configure({root!r}, *{words!r}))
"""


def killed(root, kill_after, *words):
    """Run a cell in a process of its own, which kills itself right after a snapshot."""
    process = forked.run("-c", RUN.format(root=str(root), kill_after=kill_after, words=words))
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A results folder with a source model, prepared images and finished references."""
    root = tmp_path_factory.mktemp("trained")
    for reset in ("target", "never", "image"):
        execute(configure(root, "+method=no_adapt", f"protocol.reset={reset}"))
    return root


@pytest.fixture
def root(tmp_path, trained):
    """A copy of one's own."""
    shutil.copytree(trained, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def images(monkeypatch):
    """The images that are adapted to in this process, in order."""
    seen = []
    step = METHODS.get("tent").step

    def spy(self, batch, keys):
        seen.extend(key.image for key in keys)
        return step(self, batch, keys)

    monkeypatch.setattr("tta_bench.methods.base.Method.step", spy)
    return seen


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level("INFO", logger="tta_bench")


def passes(config):
    content = summary(config)
    return content["forwards_per_image"], content["backwards_per_image"], content["skipped_updates"]


def interrupt(config, after):
    """Compute a cell up to its snapshot number ``after``, as Ctrl-C stops it: quicker than a process of its own."""
    with interrupted(after):
        execute(config)
    assert (status(config)["status"], status(config)["error"]) == ("interrupted", "SIGINT")
    assert (folder(config) / "run.log").read_text().endswith("ERROR interrupted by SIGINT\n")


@pytest.fixture
def stopped(root):
    """A TENT cell that was interrupted after three images."""
    config = configure(root, "+method=tent", "lockstep=1")
    interrupt(config, after=3)
    return config


def assert_goes_on(config, images, caplog, left):
    """The rest of the cell is computed, and cannot be told from the same part of an uninterrupted one."""
    assert (folder(config) / "snapshot.pt").is_file()
    images.clear()
    execute(config)
    assert images == left
    assert f"going on after {8 - len(left)} of 8 images" in caplog.text
    assert status(config)["status"] == "done"
    assert not (folder(config) / "snapshot.pt").exists()
    resumed, counted, saved = numbers(config), passes(config), (folder(config) / "predictions.npz").read_bytes()
    shutil.rmtree(folder(config))
    images.clear()
    execute(config)
    assert len(images) == 8
    assert resumed == numbers(config)
    assert counted == passes(config)
    assert saved == (folder(config) / "predictions.npz").read_bytes()


DLTTA = ("+method=dltta", "lockstep=1", "method.memory=2", "method.neighbours=1", "method.rate_scale=0.1")


def test_a_killed_cell_goes_on_to_the_numbers_of_an_uninterrupted_one(root, images, caplog):
    killed(root, 2, *DLTTA)
    config = configure(root, *DLTTA)
    assert status(config)["status"] == "running"
    assert_goes_on(config, images, caplog, ["A-0002", "A-0003", "C-0000", "C-0001", "C-0002", "C-0003"])


@pytest.mark.parametrize(
    ("words", "after", "left"),
    [
        (("+method=tent", "protocol.reset=never"), 6, ["C-0002", "C-0003"]),
        (("+method=grata", "lockstep=2"), 2, ["A-0002", "C-0002", "A-0003", "C-0003"]),
        (("+method=tent", "protocol.reset=image", "lockstep=1"), 4, ["C-0001", "C-0002", "C-0003"]),
    ],
    ids=["one stream", "side by side", "episodic, second target"],
)
def test_an_interrupted_cell_goes_on(root, images, caplog, words, after, left):
    config = configure(root, *words)
    interrupt(config, after)
    assert_goes_on(config, images, caplog, left)


@pytest.fixture
def memory_for_one(monkeypatch):
    """Lets memory run out in a step of two streams, from the call with this number on."""

    def limit(call):
        kind, calls = METHODS.get("tent"), []
        adapt = kind.adapt

        def limited(self, images, draws):
            calls.append(len(images))
            if len(images) > 1 and len(calls) > call:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return adapt(self, images, draws)

        monkeypatch.setattr(kind, "adapt", limited)

    return limit


@pytest.mark.parametrize("stopped", [False, True], ids=["in one run", "after a kill"])
def test_streams_that_do_not_fit_side_by_side_leave_what_one_after_the_other_leaves(
    root, images, caplog, memory_for_one, stopped
):
    """Also where they did fit for a while, in this process or the one before."""
    config = configure(root, "+method=tent", "lockstep=2")
    if stopped:
        interrupt(config, 2)
    memory_for_one(call=0 if stopped else 2)
    images.clear()
    execute(config)
    in_order = [f"{domain}-000{k}" for domain in "AC" for k in range(4)]
    assert images[-8:] == in_order
    assert "2 streams side by side do not fit into memory: 1 begin again" in caplog.text
    halved, counted, saved = numbers(config), passes(config), (folder(config) / "predictions.npz").read_bytes()
    shutil.rmtree(folder(config))
    execute(configure(root, "+method=tent", "lockstep=1"))
    assert halved == numbers(config)
    assert counted == passes(config)
    assert saved == (folder(config) / "predictions.npz").read_bytes()


def test_a_cell_goes_on_with_another_number_of_streams_side_by_side(root, images):
    words = "+method=tent", "target=A,C,E"
    execute(configure(root, "+method=no_adapt", "target=A,C,E"))
    config = configure(root, *words, "lockstep=2")
    interrupt(config, 2)
    images.clear()
    execute(configure(root, *words, "lockstep=1"))
    assert images[-8:] == ["A-0002", "C-0002", "A-0003", "C-0003", *(f"E-000{k}" for k in range(4))]
    resumed, counted = numbers(config), passes(config)
    shutil.rmtree(folder(config))
    execute(config)
    assert resumed == numbers(config), "E is alone in both"
    assert counted == passes(config)


def test_a_broken_snapshot_is_ignored(stopped, images, caplog):
    path = folder(stopped) / "snapshot.pt"
    path.write_bytes(path.read_bytes()[:-100])
    execute(stopped)
    assert "it cannot be read" in caplog.text
    assert len(images) == 8
    assert not path.exists()


def test_another_source_model_starts_anew(stopped, images, caplog):
    (model,) = stopped.results_root.glob("source_models/*/model.ckpt")
    content = torch.load(model, weights_only=True)
    torch.save(content | {"dice_in_domain_per_class": None}, model)
    execute(stopped)
    assert "it differs in the source model" in caplog.text
    assert images.count("A-0000") == 2, "the reference is computed again too"


def test_other_code_starts_anew(stopped, images, caplog, monkeypatch):
    monkeypatch.setattr(part, "code_digest", lambda kind: "of tomorrow")
    execute(stopped)
    assert "it differs in the code" in caplog.text
    assert len(images) == 8


def test_the_digest_of_the_code_covers_the_module_of_a_plugin(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "plugin_of_a_test.py").write_text("class Method: pass\n")
    from plugin_of_a_test import Method

    before = code_digest(Method)
    assert before == code_digest(Method)
    (tmp_path / "plugin_of_a_test.py").write_text("class Method: ...\n")
    assert code_digest(Method) != before


def test_force_starts_anew(stopped, images):
    execute(configure(stopped.results_root, "+method=tent", "force=true"))
    assert len(images) == 16, "the reference too"
    assert not (folder(stopped) / "snapshot.pt").exists()


def test_after_an_error_a_cell_starts_anew(stopped, images, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(METHODS.get("tent"), "adapt", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            execute(stopped)
    images.clear()
    execute(stopped)
    assert len(images) == 8


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_a_lack_of_memory_keeps_the_snapshot(stopped, images, caplog, monkeypatch, error):
    def runs_out(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(METHODS.get("tent"), "adapt", runs_out)
        with pytest.raises(type(error)):
            execute(stopped)
    assert status(stopped)["status"] == "failed"
    images.clear()
    execute(stopped)
    assert images == ["A-0003", "C-0000", "C-0001", "C-0002", "C-0003"]
    assert status(stopped)["status"] == "done"


def a_snapshot():
    prediction = Predictions.of([torch.rand(1, 5, 3).numpy() > 0.5])
    record = ImageRecord(StreamImage("A", 0, 0), {"dice": [50.0], "iou": [40.0]}, prediction, {"x": 1.0}, 0.5)
    return Snapshot([[1]], 1, 0, [2, 1, 0], [record], {"theta": torch.ones(2)}, forwards=3)


def test_a_snapshot_comes_back_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "SNAPSHOT_SECONDS", 0)
    file, kept = SnapshotFile(tmp_path / "snapshot.pt", {"a": [1]}), a_snapshot()
    file.keep(lambda: kept)
    back = file.read()
    assert (back.groups, back.steps, back.before, back.counters, back.forwards) == ([[1]], 1, 0, [2, 1, 0], 3)
    assert torch.equal(back.state["theta"], torch.ones(2))
    (record,) = back.records
    assert (record.prediction.mask(0) == kept.records[0].prediction.mask(0)).all()
    assert record.prediction.shapes == ((1, 5, 3),)
    assert vars(record) | {"prediction": 0} == vars(kept.records[0]) | {"prediction": 0}


@pytest.mark.parametrize("damage", [b"", b"not a snapshot", None])
def test_what_is_no_snapshot_is_ignored_with_a_warning(tmp_path, caplog, damage):
    path = tmp_path / "snapshot.pt"
    if damage is None:
        torch.save({"key": {}, "place": Path("anything but tensors and plain values")}, path)
    else:
        path.write_bytes(damage)
    assert SnapshotFile(path, {}).read() is None
    assert "it cannot be read" in caplog.text


def test_a_snapshot_of_another_version_of_the_key_is_ignored_with_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(snapshots, "SNAPSHOT_SECONDS", 0)
    SnapshotFile(tmp_path / "snapshot.pt", {"a": 1, "b": 2}).keep(a_snapshot)
    assert SnapshotFile(tmp_path / "snapshot.pt", {"a": 1, "c": 2}).read() is None
    assert "it differs in b, c" in caplog.text


@pytest.mark.parametrize("error", [TypeError("a Generator cannot be kept"), OSError("no space"), RuntimeError("zip")])
def test_where_no_snapshot_can_be_kept_the_run_goes_on(tmp_path, caplog, monkeypatch, error):
    def refuse():
        raise error

    monkeypatch.setattr(snapshots, "SNAPSHOT_SECONDS", 0)
    file = SnapshotFile(tmp_path / "snapshot.pt", {})
    file.keep(refuse)
    file.keep(refuse)
    assert caplog.text.count(f"cannot be resumed if it is killed: {error}") == 1


def test_snapshots_are_seconds_apart(tmp_path, monkeypatch):
    now, written = [100.0], []
    monkeypatch.setattr(snapshots, "monotonic", lambda: now[0])

    def slow():
        now[0] += 1.0  # writing takes a second, so the next one is due after fifty
        written.append(now[0])
        return a_snapshot()

    file = SnapshotFile(tmp_path / "snapshot.pt", {})
    for _ in range(100):
        now[0] += 1.0
        file.keep(slow)
    assert written == [111.0, 162.0]
