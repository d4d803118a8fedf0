"""One cell from top to bottom, on real runs that take a second: what it computes and what it leaves behind."""

import csv
import errno
import functools
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from torch import Tensor

import tta_bench.cell as cell_module
from called import covered, ran
from plain_grata import adapt_stream
from tta_bench.adaptation.provenance import Definition
from tta_bench.adaptation.runner import AdaptationModule
from tta_bench.cell import Cell, run
from tta_bench.data.domain import Domain
from tta_bench.data.prepare import prepare
from tta_bench.data.streams import passes
from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.grammar import quote_lists
from tta_bench.launch.targets import with_targets
from tta_bench.methods.base import METHODS, Card, Method
from tta_bench.metrics.dice import dice_score
from tta_bench.models.checkpoint import load, load_checkpoint, to_official
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.networks.unet import UNet
from tta_bench.records.predictions import read_predictions
from tta_bench.records.store import CellFolder
from tta_bench.report.console import show
from tta_bench.runtime.signals import Stopped

TINY = (
    "data.image_size=64",
    "data.limit=4",
    "training.epochs=1",
    "model.decoder_channels=[16,16,8,8,8]",
    "source=D",
    "target=A,C",
    "device=cpu",
)


@functools.cache
def configure(root, *overrides):
    words = quote_lists(["+method=grata", *TINY, f"results_root={root}", *overrides], False)
    given = {word.partition("=")[0].lstrip("+"): word for word in words}
    (config,) = check(list(given.values()), multirun=False)
    return config


def execute(config):
    """Run the cell; returns what it printed."""
    console = Console(file=io.StringIO(), width=80)
    for outcome in run(config):
        show(console, *outcome)
    return console.file.getvalue()


def folder(config, seed=0):
    return Cell(with_targets(config), seed).folder().path


def rows(config, seed=0):
    return list(csv.DictReader((folder(config, seed) / "per_image.csv").open(newline="")))


def summary(config, seed=0):
    return json.loads((folder(config, seed) / "summary.json").read_text())


def status(config, seed=0):
    return json.loads((folder(config, seed) / "status.json").read_text())


def numbers(config, seed=0):
    """The rows without the time they took."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows(config, seed)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A results folder with a source model, prepared images and nothing else."""
    root = tmp_path_factory.mktemp("trained")
    config = configure(root, "+method=no_adapt", "target=A")
    execute(config)
    shutil.rmtree(root / "cells")
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory, trained):
    """A finished GraTa cell with its reference, and what the run printed."""
    root = tmp_path_factory.mktemp("finished") / "results"
    shutil.copytree(trained, root)
    config = configure(root)
    return config, execute(config)


@pytest.fixture
def root(tmp_path, trained):
    """A results folder of one's own, where nothing has to be trained."""
    shutil.copytree(trained, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def computed(monkeypatch):
    """The methods of all cells that are computed, in order."""
    names = []
    compute = cell_module.compute

    def spy(cell, *args):
        names.append(cell.config.method["name"])
        return compute(cell, *args)

    monkeypatch.setattr(cell_module, "compute", spy)
    return names


def test_a_job_reads_its_source_model_once(root, monkeypatch):
    read, original = [], load.read_torch_file
    monkeypatch.setattr(load, "read_torch_file", lambda path, **how: read.append(path.name) or original(path, **how))
    execute(configure(root, "+method=no_adapt"))
    assert read == ["model.ckpt"]


# What a cell leaves behind


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
        own = [row for row in table if row["target"] == name]
        disc, cup = (sum(float(row[column]) for row in own) / len(own) for column in ("dice_disc", "dice_cup"))
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
        kept = read_predictions(folder(config) / "predictions.npz", name, (len(domain), 2, 64, 64))
        own = [row for row in rows(config) if row["target"] == name]
        assert (len(own), kept.shape) == (len(domain), (2, 64, 64))
        for row in own:
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


@pytest.fixture
def unequal_targets(tmp_path):
    """A folder of images: four of the source D, one of A and three of C."""
    images = tmp_path / "images"
    for name, count in (("D", 4), ("A", 1), ("C", 3)):
        for kind in ("image", "mask"):
            (images / name / kind).mkdir(parents=True)
        for index in range(count):
            draw = np.random.default_rng([ord(name), index])
            Image.fromarray(draw.integers(0, 255, (64, 64, 3), np.uint8)).save(images / f"{name}/image/{index}.png")
            Image.fromarray(draw.integers(0, 2, (64, 64), np.uint8)).save(images / f"{name}/mask/{index}.png")
    return images


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
    assert set(checkpoint) == {"path", "sha256", "dice_in_domain"}
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
        for one in (content, reference):
            assert all(f"{one['targets'][name][key]:.2f}" in printed for key in ("dice_disc", "dice_cup", "dice"))
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


# Running again


def test_a_finished_cell_is_not_computed_again_and_prints_the_same(finished, computed):
    config, printed = finished
    before = {path: path.stat().st_mtime_ns for path in config.results_root.rglob("*") if path.name != ".lock"}
    assert execute(config) == printed
    assert computed == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_force_computes_again_with_the_same_numbers(root, computed):
    config = configure(root, "+method=tent")
    execute(config)
    first = numbers(config)
    del computed[:]
    execute(configure(root, "+method=tent", "force=true"))
    assert computed == ["no_adapt", "tent"]
    assert numbers(config) == first


def test_a_cell_whose_files_are_gone_or_broken_is_computed_again(root, computed):
    config = configure(root, "+method=no_adapt")
    execute(config)
    for spoil in (
        lambda path: (path / "per_image.csv").unlink(),
        lambda path: (path / "summary.json").write_text('{"cell"'),
        lambda path: (path / "status.json").write_text("[]"),
        lambda path: (path / "status.json").write_bytes(b"\xff\x00"),
        lambda path: flip(path / "predictions.npz"),
        lambda path: in_its_place(path / "per_image.csv", Path.mkdir),
        lambda path: in_its_place(path / "run.log", os.mkfifo, spoilt=path / "summary.json"),
    ):
        spoil(folder(config))
        execute(config)
        assert status(config)["status"] == "done"
    assert len(computed) == 8


def flip(path):
    """Change a byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def in_its_place(path, make, spoilt=None):
    """Put a folder or pipe in the place of a file."""
    path.unlink()
    make(path)
    if spoilt is not None:
        spoilt.unlink()


def test_changed_images_are_computed_again(root, tmp_path, computed, caplog):
    images = tmp_path / "images"
    for name in ("D", "A"):
        for kind in ("image", "mask"):
            (images / name / kind).mkdir(parents=True)
        for index in range(3):
            draw = np.random.default_rng([ord(name), index])
            Image.fromarray(draw.integers(0, 255, (64, 64, 3), np.uint8)).save(images / f"{name}/image/{index}.png")
            Image.fromarray(draw.integers(0, 2, (64, 64), np.uint8)).save(images / f"{name}/mask/{index}.png")
    config = configure(root, "data=folder", f"data.root={images}", "+method=no_adapt", "target=A")
    execute(config)
    execute(config)
    assert len(computed) == 1
    Image.fromarray(np.random.default_rng(9).integers(0, 2, (64, 64), np.uint8)).save(images / "A/mask/1.png")
    with caplog.at_level("INFO", logger="tta_bench"):
        execute(config)
    assert len(computed) == 2
    assert "the images of A changed since" in caplog.text


def test_a_changed_checkpoint_is_computed_again(root, tmp_path, computed, caplog):
    (model,) = root.glob("source_models/*/model.ckpt")
    given = tmp_path / "given.ckpt"
    shutil.copy(model, given)
    config = configure(root, "+method=no_adapt", f"checkpoint={given}", "target=A")
    execute(config)
    execute(config)
    assert len(computed) == 1
    content = torch.load(given, weights_only=True)
    content["state"]["head.0.bias"] += 1
    torch.save(content, given)
    with caplog.at_level("INFO", logger="tta_bench"):
        execute(config)
    assert len(computed) == 2
    assert "the source model changed since" in caplog.text


def test_all_that_runs_while_a_cell_is_computed_counts_in_its_code(root, monkeypatch):
    config = with_targets(configure(root, "target=A", "diagnostics.empirical_gradient=true"))
    compute, found = cell_module.compute, set()

    def watched(*given):
        results = []
        found.update(ran(lambda: results.append(compute(*given))))
        return results[0]

    monkeypatch.setattr(cell_module, "compute", watched)
    execute(config)
    reached = covered(config, monkeypatch) | covered(configure(root, "+method=no_adapt"), monkeypatch)
    only_told = {
        *(Definition("tta_bench.cell", name) for name in ("Cell", "_is_cuda")),
        Definition("tta_bench.records.snapshots", "code_digest"),
        *(Definition("tta_bench.models.checkpoint.content", name) for name in ("SourceModel", "mean_dice")),
        Definition("tta_bench.methods.base", "Card"),
        Definition("tta_bench.sinks.cells", "Followed"),
    }
    assert {each for each in found - reached - only_told if each.name != "<lambda>"} == set()


def test_a_cell_of_other_code_is_computed_again_and_its_module_named(root, computed, caplog):
    config = configure(root, "+method=no_adapt", "target=A")
    execute(config)
    before = numbers(config)
    content = summary(config)
    for old, said in (
        (
            {"code": "x", "code_modules": content["code_modules"] | {"tta_bench.metrics.dice": "x"}},
            "code of tta_bench.metrics.dice",
        ),
        ({"code": None, "code_modules": None}, "because it is not known which code made it"),
    ):
        (folder(config) / "summary.json").write_text(json.dumps(content | old))
        with caplog.at_level("INFO", logger="tta_bench"):
            execute(config)
        assert said in caplog.text
        assert summary(config)["code_modules"] == content["code_modules"]
    assert len(computed) == 3
    assert numbers(config) == before


# Protocol


def test_a_list_of_seeds_makes_a_cell_each_whose_draws_differ(root):
    config = configure(root, "seed=0,1", "target=A")
    printed = execute(config)
    assert ("seed 0" in printed, "seed 1" in printed) == (True, True)
    assert [row["seed"] for row in rows(config, 1)] == ["1"] * 4
    assert [row["loss_pseudo"] for row in rows(config, 0)] != [row["loss_pseudo"] for row in rows(config, 1)]


def test_an_option_that_came_later_leaves_the_cells_at_its_default_as_they_were(root):
    config = with_targets(configure(root))

    def identified(**method):
        return Cell.of(config.model_copy(update={"method": method}), 0).identity()["method"]

    for name in METHODS.names():
        options = fields(METHODS.get(name).Options)
        later = {field.name: field.default for field in options if "later" in field.metadata}
        assert identified(name=name, **later).keys() == {"name", *(field.name for field in options)} - later.keys()
    changes = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True}
    assert identified(name="tent", **changes)["nesterov"] is True
    assert identified(name="dltta", compared_network="source")["compared_network"] == "source"


def test_a_method_that_draws_nothing_has_one_cell_for_all_seeds(root, computed):
    tent, grata = (configure(root, f"+method={method}", "seed=0,1", "target=A") for method in ("tent", "grata"))
    assert [Cell.of(with_targets(tent), seed).seed for seed in (0, 1)] == [0, 0]
    assert [Cell.of(with_targets(grata), seed).seed for seed in (0, 1)] == [0, 1]
    assert Cell.of(with_targets(grata), 1).reference() == Cell.of(with_targets(grata), 0).reference()
    drawn = configure(root, "+method=cotta", "seed=0,1", "target=A", "method.restore=0.5")
    certain = configure(root, "+method=cotta", "seed=0,1", "target=A", "method.restore=0")
    assert [cell.seed for cell in Cell.all_of(with_targets(drawn))] == [0, 1]
    assert [cell.seed for cell in Cell.all_of(with_targets(certain))] == [0]
    printed = execute(tent)
    assert computed == ["no_adapt", "tent"]
    assert ("seed 0" in printed, "seed 1" in printed) == (True, False)
    assert not folder(tent, 1).exists()


def test_another_order_shows_the_images_in_another_order_and_keeps_the_rows_in_file_order(root):
    found = {}
    for order in (0, 1, 2):
        config = configure(root, "+method=tent", "method.learning_rate=0.05", f"protocol.order={order}")
        execute(config)
        assert [(row["target"], row["index"]) for row in rows(config)] == [(t, str(i)) for t in "AC" for i in range(4)]
        found[order] = [int(row["position"]) for row in rows(config)]
        domains = prepare(config.data, config.target, config.results_root / "data")
        (stream, other) = passes(domains, ("A", "C"), order)
        for place in (*stream, *other):
            assert found[order][4 * (place.domain == "C") + place.index] == place.position
        # The first image of a stream is adapted to from the source model, whatever its index.
        losses = [float(row["loss_entropy"]) for row in rows(config)]
        episodic = configure(root, "+method=tent", "method.learning_rate=0.05", "protocol.reset=image")
        execute(episodic)
        first = found[order].index(0)
        assert losses[first] == float(rows(episodic)[first]["loss_entropy"])
    assert found[0] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert len({tuple(positions) for positions in found.values()}) == 3


def test_a_target_has_the_same_numbers_alone_and_beside_others(finished, tmp_path):
    config, _ = finished
    root = tmp_path / "results"
    shutil.copytree(config.results_root, root, ignore=shutil.ignore_patterns("cells"))
    alone = configure(root, "target=C")
    execute(alone)
    assert numbers(alone) == [row for row in numbers(config) if row["target"] == "C"]


def test_streams_side_by_side_give_the_same_numbers(finished, tmp_path):
    config, _ = finished
    root = tmp_path / "results"
    shutil.copytree(config.results_root, root, ignore=shutil.ignore_patterns("cells"))
    together = configure(root, "lockstep=4")
    execute(together)
    for one, other in zip(rows(config), rows(together), strict=True):
        for column in ("dice", "loss_auxiliary", "loss_pseudo", "cosine", "lr"):
            assert float(one[column]) == pytest.approx(float(other[column]), rel=1e-3, abs=1e-3), column


def test_the_reset_rule_decides_what_the_state_lives_through(root):
    """The first image of all is the same under every rule; later ones see more and more of the past."""
    found = {}
    for rule in ("image", "target", "never"):
        config = configure(root, "+method=tent", "method.learning_rate=0.05", f"protocol.reset={rule}")
        execute(config)
        assert [row["target"] for row in rows(config)] == ["A"] * 4 + ["C"] * 4
        found[rule] = [float(row["loss_entropy"]) for row in rows(config)]
    assert found["image"][0] == found["target"][0] == found["never"][0]
    assert found["image"][1] != found["target"][1] == found["never"][1]
    assert found["image"][4] == found["target"][4] != found["never"][4]


def test_predicting_before_the_update_differs_from_predicting_after_it(root):
    losses, dice = set(), set()
    for order in ("after", "before"):
        config = configure(
            root, "+method=tent", "method.learning_rate=0.1", "protocol.reset=image", f"protocol.predict={order}"
        )
        execute(config)
        losses.add(tuple(row["loss_entropy"] for row in rows(config)))
        dice.add(tuple(row["dice"] for row in rows(config)))
    assert (len(losses), len(dice)) == (1, 2)


# The hash

IRRELEVANT = ("device=auto", "lockstep=4", "logger=wandb", "group=x", "results_root=else", "training.workers=3")
RELEVANT = (
    "method.learning_rate=2",
    "+method=tent",
    "source=E",
    "target=C,A",
    "target=A",
    "data.limit=5",
    "data.image_size=96",
    "data.seed=1",
    "data.classes={disc: [1, 2], cup: [1]}",
    "model.encoder=resnet34",
    "model.branches=[rotation]",
    "training.epochs=2",
    "training.seed=1",
    "training.augmentation.flip=0.1",
    "protocol.steps=2",
    "protocol.reset=never",
    "protocol.predict=before",
    "protocol.order=1",
    "diagnostics.empirical_gradient=true",
    "protocol.threshold=0.4",
    "protocol.name=other",
)


def test_the_hash_ignores_what_changes_speed_place_or_display(finished):
    root = finished[0].results_root
    hashes = {folder(configure(root, word)).name for word in (*IRRELEVANT[:1], "logger=wandb", *IRRELEVANT[4:])}
    hashes.add(folder(configure(root, "logger=wandb", "group=x", "lockstep=4", "force=true")).name)
    assert hashes == {folder(finished[0]).name}


def test_the_same_option_written_as_an_integer_is_the_same_cell():
    words = ["+method=grata", "source=D"]
    cells = [check([*words, f"method.perturbation={zero}"], multirun=False)[0] for zero in ("0", "0.0")]
    assert len({folder(cell).name for cell in cells}) == 1


def test_the_hash_changes_with_everything_else(finished):
    root = finished[0].results_root
    hashes = [folder(configure(root, word)).name for word in ("source=D", *RELEVANT)]
    hashes.append(folder(finished[0], seed=1).name)
    assert len(set(hashes)) == len(hashes)


# Failures


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
import os, signal, sys
sys.path[:0] = {path!r}
import test_cell
from tta_bench.methods.base import METHODS
tent = METHODS.get("tent")
adapt, calls = tent.adapt, []
def kill(self, images, draws):
    calls.append(draws)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return adapt(self, images, draws)
tent.adapt = kill
test_cell.execute(test_cell.configure({root!r}, "+method=tent"))
"""


def test_a_killed_run_leaves_running_and_the_next_one_computes_it(root, computed):
    script = KILLED.format(path=[str(Path(__file__).parent)], root=str(root))
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
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


# Bad places


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

    def spy(cell, *args):
        seen.append(cell.config.method["name"])
        time.sleep(0.5)
        return compute(cell, *args)

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


# What a method sees


def _tensors(item, seen):
    """Every tensor and array that can be reached from ``item``."""
    if id(item) in seen:
        return
    seen[id(item)] = item
    if isinstance(item, Tensor | np.ndarray):
        yield item
    elif isinstance(item, dict):
        for value in item.values():
            yield from _tensors(value, seen)
    elif isinstance(item, list | tuple | set):
        for value in item:
            yield from _tensors(value, seen)
    elif is_dataclass(item):
        for field in fields(item):
            yield from _tensors(getattr(item, field.name), seen)
    for value in vars(item).values() if hasattr(item, "__dict__") else ():
        yield from _tensors(value, seen)


def test_from_its_batch_a_method_reaches_the_images_and_nothing_else(root, monkeypatch):
    reached, modes, step = [], [], AdaptationModule.test_step

    def spy(self, batch, batch_idx):
        reached.append(list(_tensors(batch, {})))
        modes.append((torch.is_inference_mode_enabled(), sorted(vars(batch))))
        assert not any(isinstance(item, Domain) for item in vars(batch).values())
        return step(self, batch, batch_idx)

    monkeypatch.setattr(AdaptationModule, "test_step", spy)
    execute(configure(root, "+method=bn_only"))
    assert len(reached) == 2 * 8, "of the reference and of the method"
    assert all([tuple(item.shape) for item in batch] == [(1, 3, 64, 64)] for batch in reached)
    assert all(mode == (False, ["images", "keys", "places"]) for mode in modes)


def test_labels_change_the_score_and_no_prediction(root, monkeypatch):
    def predictions(config):
        found = []
        predict = METHODS.get("grata").predict

        def spy(self, images):
            logits = predict(self, images)
            found.append(logits.clone())
            return logits

        with monkeypatch.context() as patch:
            patch.setattr(METHODS.get("grata"), "predict", spy)
            execute(config)
        return torch.cat(found), [row["dice"] for row in rows(config)]

    config = configure(root, "force=true")
    logits, dice = predictions(config)
    noise = torch.Generator().manual_seed(0)
    monkeypatch.setattr(Domain, "label", lambda self, index: torch.rand(2, 64, 64, generator=noise) < 0.5)
    noise_logits, noise_dice = predictions(config)
    assert torch.equal(logits, noise_logits)
    assert dice != noise_dice


def test_under_inference_mode_a_method_refuses_to_adapt(unet):
    from tta_bench.models.adaptable import AdaptableNetwork

    method = METHODS.get("tent")(AdaptableNetwork(unet))
    method.start(1)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode=False"):
        method.step(torch.rand(1, 3, 64, 64).double(), [])


def test_updates_that_are_not_finite_are_counted_in_the_summary(root, monkeypatch, caplog):
    tent = METHODS.get("tent")
    gradient = tent.gradient

    def broken(self, *args):
        losses, values = gradient(self, *args)
        return losses * float("nan"), values

    monkeypatch.setattr(tent, "gradient", broken)
    config = configure(root, "+method=tent")
    with caplog.at_level("WARNING", logger="tta_bench"):
        execute(config)
    assert summary(config)["skipped_updates"] == 8
    assert "8 updates were skipped" in caplog.text


def test_a_methods_own_card_and_columns_travel_to_the_files(root, monkeypatch):
    class Constant(Method):
        card = Card("nothing", "test image", False, False, 1, 0, "a test", "-")

        def adapt(self, images, draws):
            return {"brightness": images.mean(dim=(1, 2, 3))}

    monkeypatch.setitem(METHODS._items, "bn_only", Constant)
    config = configure(root, "+method=bn_only")
    execute(config)
    assert all(0 < float(row["brightness"]) < 1 for row in rows(config))


# Given source models


def test_a_checkpoint_of_ones_own_needs_no_source_images_and_gives_the_same_numbers(finished, tmp_path):
    config, _ = finished
    (model,) = config.results_root.glob("source_models/*/model.ckpt")
    given = configure(tmp_path / "results", f"checkpoint={model}")
    execute(given)
    assert numbers(given) == numbers(config)
    assert folder(given).name != folder(config).name
    assert not (tmp_path / "results/source_models").exists()
    assert len(list((tmp_path / "results/data").glob("*/index.json"))) == 2, "the targets alone are prepared"


def test_a_checkpoint_that_does_not_fit_is_refused_before_images_are_read(finished, tmp_path):
    config, _ = finished
    (model,) = config.results_root.glob("source_models/*/model.ckpt")
    with pytest.raises(UserError) as refused:
        execute(configure(tmp_path / "results", f"checkpoint={model}", "source=E", "data.image_size=96"))
    assert [re.search(r"its (domain|image size) is", fault)[1] for fault in refused.value.faults] == [
        "image size",
        "domain",
    ]
    assert not (tmp_path / "results").exists()


def fundus_tree(root, names=("Drishti_GS", "RIM_ONE_r3"), count=3):
    """A data set in the authors' layout: photographs of 96 x 80 pixels, grey masks."""
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for part, indices in (("train", range(count - 1)), ("test", range(count - 1, count))):
            lines = ["image,mask"]
            for index in indices:
                draw = np.random.default_rng([number, index])
                y, x = np.mgrid[:80, :96]
                distance = np.hypot(y - 40 - draw.integers(-6, 6), x - 48 - draw.integers(-6, 6))
                picture = 90 + 80 * (distance < 26)[..., None] + 50 * (distance < 12)[..., None]
                picture = picture * np.array([1.0, 0.7, 0.4]) + draw.normal(0, 6, (80, 96, 3))
                Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(root / f"{name}/{index}.png")
                mask = np.select([distance < 12, distance < 26], [0, 128], 255).astype(np.uint8)
                Image.fromarray(mask).save(root / f"{name}/{index}_mask.png")
                lines.append(f"{name}/{index}.png,{name}/{index}_mask.png")
            (root / f"{name}_{part}.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("reset", ["target", "image"])
def test_an_official_checkpoint_on_fundus_images_gives_the_numbers_of_plain_grata(tmp_path, reset):
    """Files to CSV against an implementation that shares no code: reading, scaling, adapting and scoring.

    Below 128 pixels the deepest statistics are of four values, and float32 itself is off by more than the tolerance.
    So it is after Adam's first steps, whose size does not depend on that of the gradient: there the cosine, which is
    most sensitive, is compared with a wider tolerance, and with the narrow one where every image starts afresh.
    """
    size = 128
    images = fundus_tree(tmp_path / "images")
    torch.manual_seed(0)
    branches = ("reconstruction", "denoising", "super_resolution", "rotation")
    model = ResUNet(2, branches=branches)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, 0, 0.2)
    state = {to_official(key): value for key, value in model.state_dict().items()}
    state |= {"res.fc.weight": torch.zeros(1000, 512), "res.fc.bias": torch.zeros(1000)}
    torch.save(state, tmp_path / "last-Res_Unet.pth")
    off = [f"method.strong_augmentation.{name}.p=0" for name in ("brightness", "contrast", "gamma", "noise", "blur")]
    plain = []
    truths = []
    for index in range(3):
        with (
            Image.open(images / f"Drishti_GS/{index}.png") as picture,
            Image.open(images / f"Drishti_GS/{index}_mask.png") as shades,
        ):
            pixels = np.asarray(picture.convert("RGB").resize((size, size), Image.BICUBIC), np.float32)
            grey = np.asarray(shades.resize((size, size), Image.NEAREST))
        scaled = (pixels - pixels.min()) / (pixels.max() - pixels.min())
        plain.append(torch.from_numpy(scaled).permute(2, 0, 1)[None])
        truths.append((grey < 255, grey == 0))
    network = ResUNet(2)
    network.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("branches.")})
    config = configure(
        tmp_path / "results",
        *(
            "data=fundus",
            f"data.root={images}",
            "data.limit=null",
            f"data.image_size={size}",
            f"checkpoint={tmp_path / 'last-Res_Unet.pth'}",
        ),
        *("model.decoder_channels=null", "source=A", "target=E", f"protocol.reset={reset}", *off),
    )
    execute(config)
    streams = [plain] if reset == "target" else [[image] for image in plain]
    expected = [record for stream in streams for record in adapt_stream(network, stream, learning_rate=1e-4)]

    table = rows(config)
    assert [row["image"] for row in table] == [f"Drishti_GS/{index}.png" for index in range(3)]
    for row, record, truth in zip(table, expected, truths, strict=True):
        tolerance = 5e-3 if reset == "image" or row["index"] == "0" else 5e-2
        assert float(row["cosine"]) == pytest.approx(record["cosine"], abs=tolerance)
        assert float(row["loss_auxiliary"]) == pytest.approx(record["loss_auxiliary"], rel=1e-3)
        for channel, (name, mask) in enumerate(zip(("disc", "cup"), truth, strict=True)):
            predicted = record["logits"][0, channel].numpy() >= 0
            dice = 200 * (predicted & mask).sum() / (predicted.sum() + mask.sum())
            assert float(row[f"dice_{name}"]) == pytest.approx(dice, abs=0.1)
    assert any(float(row["dice"]) > 1 for row in table), "a prediction of nothing would agree trivially"


def test_a_unet_is_refused_as_an_official_checkpoint(tmp_path):
    torch.save(UNet("resnet18", 2, decoder_channels=(16, 16, 8, 8, 8)).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match="neither a checkpoint of tta_bench nor the GraTa authors' ResUNet-34"):
        execute(configure(tmp_path / "results", f"checkpoint={tmp_path / 'other.pth'}"))


@pytest.mark.parametrize("encoder", ["timm-efficientnet-b0", "mit_b0"])
def test_without_adaptation_a_cell_has_the_numbers_of_the_source_model_in_eval_mode(tmp_path, encoder):
    config = with_targets(configure(tmp_path, "+method=no_adapt", "target=A", f"model.encoder={encoder}"))
    execute(config)
    (path,) = tmp_path.glob("source_models/*/model.ckpt")
    model = load_checkpoint(path, config).model.eval()
    domain = prepare(config.data, ("A",), tmp_path / "data")["A"]
    for row in rows(config):
        with torch.no_grad():
            logits = model(domain.image(int(row["index"]))[None])[0]
        expected = dice_score(torch.sigmoid(logits) >= config.protocol.threshold, domain.label(int(row["index"])))
        assert [float(row["dice_disc"]), float(row["dice_cup"])] == pytest.approx(expected.tolist(), abs=0.05)
