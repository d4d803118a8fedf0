"""What a cell leaves behind: files, numbers and what it prints."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import tta_bench.cell as cell_module
from tiny_cells import configure, execute, folder, rows, status, summary
from tta_bench.data.prepare import prepare
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS
from tta_bench.metrics.dice import dice_score
from tta_bench.models.checkpoint import load_checkpoint
from tta_bench.records.predictions import read_predictions


@pytest.mark.parametrize("bare", ["P", "Q"])
def test_images_without_masks_are_refused_before_any_work(tmp_path, monkeypatch, bare):
    for domain in "PQ":
        for kind in ("image", "mask") if domain != bare else ("image",):
            (tmp_path / domain / kind).mkdir(parents=True)
            Image.fromarray(np.eye(64, dtype=np.uint8)).save(tmp_path / domain / kind / "a.png")
    monkeypatch.setattr(cell_module, "source_model", lambda *_: pytest.fail("it is trained"))
    config = configure(tmp_path / "results", "data=folder", f"data.root={tmp_path}", "source=P", "target=Q")
    with pytest.raises(UserError) as caught:
        execute(config)
    (sentence,) = caught.value.faults
    assert sentence.startswith(f"domain '{bare}' has no masks: ")
    assert str(tmp_path / bare / "mask") in sentence


def test_a_cell_leaves_the_files_of_the_contract_and_its_reference(finished):
    config, _ = finished
    files = {path.name for path in folder(config).iterdir()}
    assert files - {".lock"} == {
        *("config.yaml", "per_image.csv", "predictions.npz", "summary.json", "status.json", "run.log")
    }
    reference = folder(configure(config.results_root, "+method=no_adapt"))
    assert {path.name for path in (config.results_root / "cells").iterdir()} == {folder(config).name, reference.name}
    assert re.fullmatch(r"[0-9a-f]{16}", folder(config).name)


def test_per_image_has_one_row_per_image_and_the_columns_in_order(finished):
    config, _ = finished
    table = rows(config)
    assert list(table[0]) == [
        *("source", "target", "method", "seed", "index", "image", "dice_disc", "dice_cup", "dice"),
        *("position", "loss_auxiliary", "loss_pseudo", "cosine", "lr", "skipped", "seconds"),
    ]
    assert [(row["target"], row["index"]) for row in table] == [(t, str(i)) for t in "AC" for i in range(4)]
    assert [row["image"] for row in table[:2]] == ["A-0000", "A-0001"]
    assert {(row["source"], row["method"], row["seed"]) for row in table} == {("D", "grata", "0")}
    for row in table:
        assert float(row["dice"]) == pytest.approx((float(row["dice_disc"]) + float(row["dice_cup"])) / 2)
        assert 0 <= float(row["dice"]) <= 100
        assert float(row["seconds"]) > 0
        assert -1 <= float(row["cosine"]) <= 1
        assert float(row["lr"]) == pytest.approx(1e-4 * (float(row["cosine"]) + 1) ** 2 / 4, rel=1e-4)


def test_the_summary_averages_images_then_classes_then_targets(finished):
    config, _ = finished
    table, content = rows(config), summary(config)
    means = {}
    for name in ("A", "C"):
        images = [row for row in table if row["target"] == name]
        disc, cup = (sum(float(row[column]) for row in images) / len(images) for column in ("dice_disc", "dice_cup"))
        target = content["targets"][name]
        assert target["n"] == 4
        assert (target["dice_disc"], target["dice_cup"]) == (pytest.approx(disc), pytest.approx(cup))
        assert target["dice"] == pytest.approx((disc + cup) / 2)
        means[name] = (disc + cup) / 2
    assert content["dice"] == pytest.approx((means["A"] + means["C"]) / 2)


def test_the_predictions_of_a_cell_give_every_dice_of_its_table(finished):
    config, _ = finished
    domains = prepare(config.data, config.target, config.results_root / "data")
    for name, domain in domains.items():
        kept = read_predictions(folder(config) / "predictions.npz", name, domain.prediction_shapes)
        images = [row for row in rows(config) if row["target"] == name]
        assert kept.shapes == ((2, 64, 64),) * len(images)
        for row in images:
            mask, label = torch.from_numpy(kept.mask(int(row["index"]))), domain.label(int(row["index"]))
            assert [float(row["dice_disc"]), float(row["dice_cup"])] == dice_score(mask, label).tolist()


def test_the_passes_per_image_are_those_of_the_method_s_card(finished):
    card, content = METHODS.get("grata").card, summary(finished[0])
    assert (content["forwards_per_image"], content["backwards_per_image"]) == (card.forwards, card.backwards) == (9, 2)


def test_the_passes_per_image_are_the_same_for_streams_of_unequal_length_side_by_side(root, unequal_targets):
    for method in ("grata", "no_adapt"):
        config = configure(
            root,
            "data=folder",
            f"data.root={unequal_targets}",
            f"+method={method}",
            "lockstep=2",
            "data.classes={a: [1]}",
        )
        execute(config)
        card, content = METHODS.get(method).card, summary(config)
        passes = content["forwards_per_image"], content["backwards_per_image"]
        assert passes == (card.forwards, card.backwards), method


def test_targets_of_different_sizes_count_equally(root, unequal_targets):
    config = configure(root, "data=folder", f"data.root={unequal_targets}", "+method=bn_only")
    printed = execute(config)
    content = summary(config)
    assert {name: target["n"] for name, target in content["targets"].items()} == {"A": 1, "C": 3}
    assert content["dice"] == pytest.approx((content["targets"]["A"]["dice"] + content["targets"]["C"]["dice"]) / 2)
    assert list(rows(config)[0])[6:8] == ["dice_foreground", "dice"]
    assert "Dice" in printed


def test_the_summary_has_the_keys_of_the_contract(finished):
    config, _ = finished
    content = summary(config)
    assert {
        *("cell", "method", "source", "seed", "protocol", "targets", "dice"),
        *("seconds_per_image", "peak_memory_mb", "source_checkpoint", "versions"),
    } <= set(content)
    assert (content["cell"], content["method"], content["source"]) == (folder(config).name, "grata", "D")
    assert content["protocol"] == config.protocol.model_dump()
    checkpoint = content["source_checkpoint"]
    assert set(checkpoint) == {"path", "sha256", "dice_in_domain", "examination"}
    assert load_checkpoint(Path(checkpoint["path"]), config).sha256 == checkpoint["sha256"]
    assert content["peak_memory_mb"] > 0
    assert content["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_the_status_is_done_and_the_config_says_what_was_run(finished):
    config, _ = finished
    assert status(config)["status"] == "done"
    content = yaml.safe_load((folder(config) / "config.yaml").read_text())
    assert (content["hash"], content["source"], content["target"]) == (folder(config).name, "D", ["A", "C"])
    assert content["method"] == config.method
    assert content["data"]["image_size"] == 64
    assert "grata: adapts affine parameters" in (folder(config) / "run.log").read_text()


def test_the_printed_table_has_the_numbers_of_the_files_and_the_folder(finished):
    config, printed = finished
    content, reference = summary(config), summary(configure(config.results_root, "+method=no_adapt"))
    for name in ("A", "C"):
        for values in (content, reference):
            assert all(f"{values['targets'][name][key]:.2f}" in printed for key in ("dice_disc", "dice_cup", "dice"))
    assert f"{content['dice'] - reference['dice']:+.2f} [" in printed
    assert f"results: {folder(config)}" in printed


def test_the_reference_is_made_once_and_shared(root, computed):
    for method in ("tent", "grata", "no_adapt"):
        execute(configure(root, f"+method={method}"))
    assert computed == ["no_adapt", "tent", "grata"]


def test_no_adapt_alone_has_no_difference(root):
    printed = execute(configure(root, "+method=no_adapt"))
    assert "difference" not in printed
    assert "no_adapt" in printed
