"""A cell that is run again: shared, kept, or computed anew."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tta_bench.cell as cell_module
from called import covered, ran
from tiny_cells import TINY, configure, execute, folder, numbers, random_pairs, status, summary
from tta_bench.adaptation.linking import Definition
from tta_bench.adaptation.provenance import bank_code, system_code
from tta_bench.launch.targets import with_targets


def test_a_finished_cell_is_not_computed_again_and_prints_the_same(finished, computed):
    config, printed = finished
    before = {path: path.stat().st_mtime_ns for path in config.results_root.rglob("*") if path.name != ".lock"}
    assert execute(config) == printed
    assert computed == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


OBSERVED = """
import json, sys
from collections import Counter
from hydra._internal.config_loader_impl import ConfigLoaderImpl
compositions, opened = [], Counter()
load = ConfigLoaderImpl.load_configuration
def loaded(self, config_name, overrides, *more, **options):
    compositions.append([config_name, *overrides])
    return load(self, config_name, overrides, *more, **options)
ConfigLoaderImpl.load_configuration = loaded
def audit(event, arguments):
    if event == "open" and str(arguments[0]).startswith(ROOT):
        opened[str(arguments[0]).rpartition("/")[2]] += 1
ROOT = sys.argv.pop(1)
sys.addaudithook(audit)
from tta_bench.__main__ import main
main()
print(json.dumps([compositions, opened, [*sys.modules]]))
"""


def test_a_finished_cell_starts_without_network_trainer_or_a_second_composition(tmp_path):
    usual = "model.encoder=resnet18"  # only the library knows of others
    execute(configure(tmp_path, usual))
    words = ["+method=grata", *(usual if word.startswith("model.encoder=") else word for word in TINY)]
    command = [sys.executable, "-c", OBSERVED, str(tmp_path), *words, f"results_root={tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "finished before, not computed again" in result.stdout
    compositions, opened, modules = json.loads(result.stdout.splitlines()[-1])
    heavy = {"pytorch_lightning", "segmentation_models_pytorch", "timm", "torchvision", "albumentations", "wandb"}
    assert [name for name in modules if name.partition(".")[0] in heavy or name == "scipy.stats"] == []
    texts = [" ".join(words) for words in compositions]
    assert len(set(texts)) == len(texts), "each once"
    most = {"status.json": 10, "summary.json": 10, "per_image.csv": 10, "predictions.npz": 12, "model.ckpt": 6}
    assert {name: number for name, number in opened.items() if number > most.get(name, 12)} == {}, "of two cells"


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
    images = random_pairs(tmp_path / "images", {"D": 3, "A": 3})
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
    compute, called = cell_module.compute, set()

    def watched(*given):
        results = []
        called.update(ran(lambda: results.append(compute(*given))))
        return results[0]

    monkeypatch.setattr(cell_module, "compute", watched)
    execute(config)
    reached = covered(config, monkeypatch) | covered(configure(root, "+method=no_adapt"), monkeypatch)
    only_told = {
        Definition("tta_bench.cell", "Cell"),
        Definition("tta_bench.records.snapshots", "code_digest"),
        Definition("tta_bench.sinks.cells", "Followed"),
        *(Definition("tta_bench.models.checkpoint.content", name) for name in ("SourceModel", "mean_dice")),
        Definition("tta_bench.models.checkpoint.load", "has_two_copies"),
        Definition("tta_bench.methods.base", "Card"),
        Definition("tta_bench.runtime.numerics", "device_name"),
        # They check values that are in the hash of the cell.
        *(Definition("tta_bench.ops.views", name) for name in ("Operation", "StrongAugmentation")),
        Definition("tta_bench.runtime.sections", "PreprocessingConfig"),
    }
    assert {each for each in called - reached - only_told if each.name != "<lambda>"} == set()


SHORT = ("method=no_adapt", "protocol.evaluation=held_out", "adapt.batch_size=2", "data.limit=8")


KEPT = (
    *("tta_bench.__init__", "tta_bench.cell", "tta_bench.models.build", "tta_bench.models.checkpoint."),
    *("tta_bench.models.weights", "tta_bench.runtime.locks", "tta_bench.runtime.ranges", "tta_bench.runtime.sections"),
)


@pytest.mark.parametrize(
    ("made", "digest", "words"),
    [
        (
            "adapted_models",
            system_code,
            (*SHORT, "adapt=mmtl", "target=A", "adapt.labels=2", "adapt.epochs=1", "adapt.steps=1"),
        ),
        (
            "adapted_models",
            system_code,
            (*SHORT, "adapt=always_new", "source=C", "stages=A,C", "adapt.epochs=1", "adapt.steps=1"),
        ),
        ("_with_own_bank", lambda config: bank_code(), ("method=fda", "target=A")),
    ],
    ids=["a stage", "stages", "a bank"],
)
def test_all_that_runs_while_a_model_is_prepared_counts_in_the_code_of_that(root, monkeypatch, made, digest, words):
    """An adapted model, after one stage or several, and a bank: which images they are made of is part of it."""
    config = configure(root, *words)
    make, called = getattr(cell_module, made), set()

    def watched(*given):
        results = []
        called.update(ran(lambda: results.append(make(*given))))
        return results[0]

    monkeypatch.setattr(cell_module, made, watched)
    execute(config)
    assert called, "it was made"
    only_kept = {
        *(("tta_bench.offline.stage", name) for name in ("adapted_model", "stage_of", "_key", "_save")),
        *(("tta_bench.offline.bank", name) for name in ("banked", "needs_bank", "with_bank", "bank_file")),
        *(("tta_bench.offline.bank", name) for name in ("_read", "_made", "_made_of", "_digest")),
        # They check values that are in the key, as what is in KEPT does, or reads and writes files.
        ("tta_bench.methods.base", "MethodOptions"),
        ("tta_bench.methods.fda", "resolved"),
        ("tta_bench.runtime.composed", "composed_file"),
        ("tta_bench.launch.composition", "_OwnFolder"),
        ("tta_bench.offline.fine_tuning", "_as_labels"),
    }
    missed = called - covered(config, monkeypatch, digest) - only_kept
    assert {each for each in missed if each.name != "<lambda>" and not each.module.startswith(KEPT)} == set()


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
