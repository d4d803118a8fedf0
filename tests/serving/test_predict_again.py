"""``tta-bench predict`` goes on: streams in their order, a state that is kept, and what was stopped or is finished."""

import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from predicted import N, files, table

import forked

# Order, streams, state


def test_the_order_and_the_streams_are_those_asked_for_and_written_down(world, predict, stepped, tmp_path):
    names = [f"A{k}.png" for k in (3, 0, 5, 1, 2, 4)]
    (tmp_path / "order.txt").write_text("\n".join(names))
    assert predict(world["images"], "out", "--order", "order.txt", method="tent") == (0, "")
    assert [f"{name}.png" for name in stepped] == names == [row["image"] for row in table(tmp_path / "out")]
    assert [image["image"] for image in yaml.safe_load((tmp_path / "out/config.yaml").read_text())["images"]] == names

    place = os.path.relpath(world["images"], tmp_path)
    lines = [f"{place}/A{k}.png,{'LR'[k % 2]},x" for k in range(N)]
    (tmp_path / "list.csv").write_text("\n".join(["image,eye,note", *lines]))
    stepped.clear()
    assert predict("list.csv", "by_eye", "--stream-by", "eye", method="tent") == (0, "")
    assert [name[-1] for name in stepped] == ["0", "2", "4", "1", "3", "5"], "one stream after the other"
    rows = table(tmp_path / "by_eye")
    assert [row["stream"] for row in rows] == list("LRLRLR")
    assert [Path(row["image"]).stem for row in rows] == [f"A{k}" for k in range(N)], "rows keep the order of the list"
    # A stream is what its images alone would be.
    for k in (1, 3, 5):
        (tmp_path / "right").mkdir(exist_ok=True)
        shutil.copy(world["images"] / f"A{k}.png", tmp_path / "right")
    assert predict("right", "alone", method="tent") == (0, "")
    assert [r["loss_entropy"] for r in table(tmp_path / "alone")] == [r["loss_entropy"] for r in rows[1::2]]
    assert predict("list.csv", "together", method="tent") == (0, "")
    assert [r["loss_entropy"] for r in table(tmp_path / "together")[1::2]] != [r["loss_entropy"] for r in rows[1::2]]


def test_tomorrows_images_go_on_where_todays_ended(world, predict, tmp_path):
    for day, numbers in (("today", (0, 1, 2)), ("tomorrow", (3, 4, 5))):
        (tmp_path / day).mkdir()
        for k in numbers:
            shutil.copy(world["images"] / f"A{k}.png", tmp_path / day)
    assert predict(world["images"], "whole") == (0, "")
    states = []
    for day in ("today", "tomorrow", "tomorrow"):
        assert predict(day, f"out_{day}", "--state", "grata.state") == (0, "")
        states.append((tmp_path / "grata.state").read_bytes())
    assert states[0] != states[1] == states[2], "what is finished is not added to the state again"
    parts = [row for day in ("today", "tomorrow") for row in table(tmp_path / f"out_{day}")]
    for part, whole in zip(parts, table(tmp_path / "whole"), strict=True):
        assert {**part, "seconds": ""} == {**whole, "seconds": ""}
    content = torch.load(tmp_path / "grata.state", weights_only=True)
    assert content["identity"]["method"]["name"] == "grata"
    code, errors = predict("today", "elsewhere", "--state", "grata.state", method="tent")
    assert code == 2
    assert "--state grata.state was saved with method=grata, and this is method=tent:" in errors
    errors = predict("today", "elsewhere", "--state", "grata.state", "method.learning_rate=1")[1]
    assert "was saved with method.learning_rate=0.0001, and this is method.learning_rate=1.0:" in errors
    (tmp_path / "damaged.state").write_bytes(b"nothing")
    errors = predict("today", "again", "--state", "damaged.state")[1]
    assert "--state damaged.state is not a PyTorch file: name a file that tta-bench predict has written" in errors


# Stopped, and run again

KILLED = """
import os, signal, sys
import tta_bench.records.snapshots as snapshots
snapshots.SNAPSHOT_SECONDS, snapshots.SNAPSHOT_SHARE = {seconds}, float("inf")
keep, calls = snapshots.ProgressFile.keep, []
def kill(self, snapshot):
    keep(self, snapshot)
    calls.append(snapshot)
    if len(calls) == {images}:
        os.kill(os.getpid(), signal.{signal})
snapshots.ProgressFile.keep = kill
sys.argv[1:] = {words!r}
from tta_bench.cli import main
main()
"""


@pytest.mark.parametrize(
    ("name", "code", "seconds", "images"), [("SIGKILL", -9, 0, 3), ("SIGINT", 130, 0, 3), ("SIGTERM", 143, 1000, 1)]
)
def test_a_stopped_prediction_goes_on_to_the_same_bits(world, predict, stepped, tmp_path, name, code, seconds, images):
    """From the first image on, however far apart snapshots are."""
    more = ["--state", "s", "--compare", "seed=3"]
    words = ["predict", str(world["images"]), "out", f"checkpoint={world['checkpoint']}", "+method=grata", *more]
    program = KILLED.format(signal=name, seconds=seconds, images=images, words=words)
    done = forked.run("-c", program, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert not (tmp_path / "out/predictions.csv").exists()
    assert not (tmp_path / "s").exists()
    assert predict(world["images"], "out", *more) == (0, "")
    assert stepped == ["A0", "A1", "A2", "A3", "A4", "A5"][images:]
    (tmp_path / "s").rename(tmp_path / "first")
    assert predict(world["images"], "whole", *more) == (0, "")
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    states = [torch.load(tmp_path / each, weights_only=True)["state"] for each in ("first", "s")]
    extra = [each.pop("_extra_state") for each in states]
    assert extra[0] == extra[1]
    torch.testing.assert_close(*map(dict, states), rtol=0, atol=0)


def test_a_finished_folder_stays_and_takes_nothing_else(world, predict, stepped, tmp_path):
    assert predict(world["images"], "out", method="tent") == (0, "")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    stepped.clear()
    assert predict(world["images"], "out", method="tent") == (0, "")
    assert stepped == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.name != ".lock"} == {
        path: time for path, time in before.items() if path.name != ".lock"
    }
    for words, key in (
        (["method.learning_rate=1"], "method"),
        (["seed=1"], "seed"),
        (["--per-class"], "outputs"),
        (["protocol.reset=image"], "protocol"),
    ):
        code, errors = predict(world["images"], "out", *words, method="tent")
        assert (code, f"made with another {key} (" in errors) == (2, True), errors
    code, errors = predict(world["images"] / "A1.png", "out", method="tent")
    assert "made with another images" in errors
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    assert "full holds other things (thesis.txt)" in predict(world["images"], "full")[1]
