"""What a stage may use of the source, and what is told of it afterwards, in real cells."""

import json

import pytest
import torch

from tiny_cells import configure, execute, folder, random_pairs, rows, summary
from tta_bench.cell import Cell
from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.cleaning import unneeded
from tta_bench.launch.targets import with_targets
from tta_bench.models.checkpoint.optimizer import read_optimizer
from tta_bench.offline.access import NEEDS, Grounds
from tta_bench.records.merging import merge, plan_merge

HELD = "protocol.evaluation=held_out"
SHORT = ("adapt.labels=2", "adapt.epochs=2", "adapt.steps=1", "adapt.batch_size=2")
STAGE = ("method=no_adapt", HELD, "target=A", "training.holdout=0.5", "data.limit=6")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Cells of MMTL and OCTL, whose source model is trained here."""
    root = tmp_path_factory.mktemp("results")
    for name in ("mmtl", "octl"):
        execute(configure(root, *STAGE, f"adapt={name}", *SHORT))
    return root


def test_a_model_says_what_it_has_retained_of_images_that_no_training_saw(root, monkeypatch):
    for name in ("mmtl", "octl"):
        told = summary(configure(root, *STAGE, f"adapt={name}", *SHORT))
        (record,) = told["adapted"].values()
        assert 0 <= record["dice_in_domain"] <= 100
        assert record["sha256"] != told["source_checkpoint"]["sha256"]
    (model,) = root.glob("source_models/*/model.ckpt")
    gathered = read_optimizer(model)
    assert {*next(iter(gathered.values()))} == {"step", "exp_avg", "exp_avg_sq"}
    assert all(torch.isfinite(state["exp_avg"]).all() for state in gathered.values())
    handed = []
    seen = Grounds.source_images
    monkeypatch.setitem(NEEDS, "source_images", lambda grounds: handed.append(seen(grounds)) or handed[-1])
    execute(configure(root, *STAGE, "adapt=mmtl", *SHORT[1:], "adapt.labels=1"))
    assert [len(images) for images in handed] == [3]


def test_merging_and_cleaning_know_adapted_models(root, tmp_path):
    into = tmp_path / "out"
    told = [*merge(plan_merge([root], into))]
    kinds = {kind: sum(text.startswith(kind) for text in told) for kind in ("source model", "adapted model")}
    assert kinds["source model"] == 1
    assert kinds["adapted model"] >= 2
    for pattern in ("source_models/*/optimizer.pt", "adapted_models/*/model.ckpt", "adapted_models/*/key.json"):
        files = {path.relative_to(root): path.read_bytes() for path in root.glob(pattern)}
        assert files == {path.relative_to(into): path.read_bytes() for path in into.glob(pattern)}
        assert files
    assert not plan_merge([root], into).models
    assert unneeded(into, list) == []
    config = configure(root, *STAGE, "adapt=octl", *SHORT)
    (record,) = summary(config)["adapted"].values()
    of_octl = record["path"].split("/")[-2]
    for path in (into / "cells" / folder(config).name).iterdir():
        path.unlink()
    (into / "cells" / folder(config).name).rmdir()
    assert unneeded(into, lambda: [Cell(with_targets(config), 0)]) == [], "a run to come needs it"
    (item,) = unneeded(into, list)
    assert item.path == into / "adapted_models" / of_octl
    assert "no cell has used" in item.why
    other = into / "adapted_models" / of_octl / "model.ckpt"
    other.write_bytes(b"other weights")
    with pytest.raises(UserError, match=f"adapted model {of_octl} is not the same everywhere"):
        plan_merge([root], into)


def test_what_the_source_must_give_is_asked_for_before_any_work(root, tmp_path):
    (model,) = root.glob("source_models/*/model.ckpt")
    random_pairs(tmp_path / "own", {"A": 4, "B": 4})
    words = ["+method=no_adapt", "data=folder", f"data.root={tmp_path / 'own'}", "source=X", "target=A", HELD]
    for given in (["adapt=aiva"], ["adapt=mmtl"]):
        with pytest.raises(UserError, match="unknown source=X"):
            check([*words, *given, f"checkpoint={model}"], multirun=False)
    check([*words, "adapt=fta", f"checkpoint={model}"], multirun=False)
    with pytest.raises(UserError, match=r"leave checkpoint= out"):
        check(["+method=tent", "source=D", "adapt=octl", HELD, f"checkpoint={model}"], multirun=False)
    with pytest.raises(UserError, match=r"set training\.keep=last"):
        check(["+method=tent", "source=D", "adapt=octl", HELD, "training.keep=best"], multirun=False)
    with pytest.raises(UserError, match=r"set protocol\.evaluation=held_out"):
        check(["+method=tent", "source=D", "adapt=fta"], multirun=False)
    assert json.loads(next(root.glob("adapted_models/*/key.json")).read_text())["the system"]["labels"] in (1, 2)


def test_all_labels_are_those_of_the_half_that_is_not_tested(root, monkeypatch):
    handed, seen = [], Grounds.target_labels
    monkeypatch.setitem(NEEDS, "target_labels", lambda grounds: handed.append(seen(grounds)) or handed[-1])
    config = configure(root, *STAGE, "adapt=fta", *SHORT[1:], "adapt.labels=all")
    execute(config)
    ((images, _),) = (vars(each).values() for each in handed)
    assert len(images) == 3
    assert not {*images.names} & {row["image"] for row in rows(config)}


def test_too_few_labels_are_a_sentence_for_every_target_before_any_work(tmp_path):
    with pytest.raises(UserError) as refused:
        execute(configure(tmp_path, *STAGE, "target=A,C", "adapt=fta", "adapt.labels=4"))
    assert [fault.split(" before")[0] for fault in refused.value.faults] == [
        f"adapt=fta needs 4 images of target={name}" for name in "AC"
    ]
    assert "there are 3 of 6, the others being held out" in str(refused.value)
    assert not (tmp_path / "source_models").exists()
    for wrong in ("0", "al", "True", "1.5"):
        with pytest.raises(UserError, match=rf"adapt\.labels={wrong}: give how many .* or all$"):
            check(["+method=tent", "source=D", "adapt=fta", HELD, f"adapt.labels={wrong}"], multirun=False)
