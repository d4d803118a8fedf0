"""What is found out about a finished source model, where it is kept, and what it leaves alone."""

import json
import logging
from dataclasses import replace

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from tta_bench.models.build import build_model
from tta_bench.models.checkpoint import load_checkpoint, save_checkpoint
from tta_bench.models.encoder import build_encoder
from tta_bench.ops.probabilities import targets
from tta_bench.source import examination as examinations
from tta_bench.source.examination import (
    BINS,
    announce,
    calibration_bins,
    calibration_error,
    examine,
    examined,
    known_source,
    side_file,
)
from tta_bench.source.train import model_path, source_model

CPU = torch.device("cpu")


@pytest.fixture
def trained(make_config, make_domain, tmp_path):
    """A run, its domain and its source model, all of one epoch."""
    config, domain = make_config(epochs=1).model_copy(update={"results_root": tmp_path}), make_domain(8)
    return config, domain, source_model(config, domain, tmp_path)


def test_a_finished_training_is_examined_on_what_it_held_out(trained):
    config, domain, source = trained
    content = json.loads(side_file(source.path).read_text())
    assert content["sha256"] == source.sha256
    found = examined(config, source, {"A": domain}, CPU)
    assert found.model_dump() == content["examination"]
    assert (found.images, found.n) == ("held-out", 2)
    assert found.dice == pytest.approx(source.dice_in_domain, abs=1e-3)
    assert found.dice_image_statistics != found.dice
    assert 0 < found.ece < 100


@pytest.mark.parametrize("damage", [None, b"{}", b"no json", b'{"sha256": 1}'])
def test_an_old_or_damaged_examination_is_made_again_and_touches_no_model(trained, damage):
    config, domain, source = trained
    file, before = side_file(source.path), source.path.read_bytes()
    whole = file.read_bytes()
    file.unlink() if damage is None else file.write_bytes(damage)
    random = torch.get_rng_state()
    found = examined(config, source, {"A": domain}, CPU)
    assert torch.equal(random, torch.get_rng_state())
    assert file.read_bytes() == whole
    assert source.path.read_bytes() == before
    assert load_checkpoint(source.path, config).sha256 == source.sha256
    other = replace(domain, fingerprint="other images")
    assert examined(config, source, {"A": other}, CPU) != found, "not of these images"


def test_it_is_read_where_it_was_made_before(trained, monkeypatch):
    config, domain, source = trained
    monkeypatch.setattr(examinations, "examine", None)
    assert examined(config, source, {"A": domain}, CPU).n == 2


def test_what_is_known_of_a_model_is_read_once_and_again_where_its_file_changed(trained, monkeypatch):
    _, domain, source = trained
    reads = []
    read = examinations.file_sha256
    monkeypatch.setattr(examinations, "file_sha256", lambda path: reads.append(path) or read(path))
    for _ in range(3):
        assert known_source(source.path, domain).sha256 == source.sha256
    assert len(reads) == 1
    source.path.write_bytes(source.path.read_bytes()[:-1] + b" ")
    assert known_source(source.path, domain) is None, "of another file"
    source.path.unlink()
    assert known_source(source.path, domain) is None


def test_without_held_out_images_those_of_the_training_are_taken_and_named(make_config, make_domain, tmp_path):
    config, domain = make_config(epochs=1, holdout=0.0), make_domain(6)
    found = examined(config, source_model(config, domain, tmp_path), {"A": domain}, CPU)
    assert (found.images, found.n) == ("training", 6)


def test_of_a_training_that_is_not_recorded_it_is_not_known_which_images_it_saw(trained, tmp_path):
    _, domain, source = trained
    found = examine(replace(source, training=None), domain, CPU, tmp_path / "new" / "file.json")
    assert (found.images, found.n) == ("seen or not", 8)
    assert (tmp_path / "new" / "file.json").exists()


def test_running_statistics_that_have_not_converged_are_found(learned, tmp_path, caplog):
    """Weights that do well by the statistics of an image, and statistics that belong to none."""
    longer, many, source = learned
    sound = examined(longer, source, {"A": many}, CPU)
    assert sound.weaknesses(longer.diagnostics.model_copy(update={"source_dice": 70.0, "source_gap": 10.0})) == []
    for name, value in source.model.named_buffers():
        if name.endswith("running_var"):
            value.mul_(30)
    found = examine(source, many, CPU, tmp_path / "other.json")
    assert found.dice_image_statistics == pytest.approx(sound.dice_image_statistics, abs=1e-6)
    bar = longer.diagnostics.model_copy(update={"source_dice": 70.0, "source_gap": 5.0})
    low, gap = found.weaknesses(bar)
    assert low.startswith("has an in-domain Dice of")
    assert gap.endswith("above 5: its own have not converged")
    with caplog.at_level(logging.WARNING, logger="tta_bench"):
        announce(longer.model_copy(update={"diagnostics": bar}), source, found)
    assert f"SOURCE MODEL A IS TOO WEAK TO ADAPT: it {low}, and {gap}" in caplog.text


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_the_calibration_error_is_that_of_torchmetrics(activation):
    torch.manual_seed(0)
    logits = 3 * torch.randn(4, 3, 32, 32)
    index = torch.randint(0, 3, (4, 32, 32))
    labels = torch.stack([index == 1, index == 2], 1) if activation == "softmax" else torch.rand(4, 3, 32, 32) < 0.4
    parts = [calibration_bins(each, label, activation) for each, label in zip(logits, labels, strict=True)]
    if activation == "softmax":
        values, truth = logits.softmax(1), targets(labels, "softmax").int().argmax(1)
    else:
        p = logits.sigmoid().flatten()
        values, truth = torch.stack([1 - p, p], 1), labels.flatten().int()
    expected = multiclass_calibration_error(values, truth, values.shape[1], n_bins=BINS, norm="l1")
    assert calibration_error(torch.stack(parts).sum(0)) == pytest.approx(100 * float(expected), abs=1e-3)


def test_encoder_weights_from_a_local_file_are_what_the_training_starts_from(
    make_config, make_domain, tmp_path, monkeypatch
):
    path = tmp_path / "imagenet.pth"
    torch.manual_seed(1)
    encoder = build_encoder("resnet18", None)
    torch.save(encoder.state_dict(), path)
    config = make_config(epochs=1, learning_rate=1e-12, model={"encoder": "resnet18", "encoder_weights": str(path)})
    source = source_model(config, make_domain(4), tmp_path)
    assert torch.allclose(source.model.state_dict()["encoder.conv1.weight"], encoder.state_dict()["conv1.weight"])
    torch.save({key: value + 1 if "conv" in key else value for key, value in encoder.state_dict().items()}, path)
    (tmp_path / "moved").mkdir()
    moved = path.rename(tmp_path / "moved" / "imagenet.pth")
    again = make_config(model={"encoder": "resnet18", "encoder_weights": str(moved)}, epochs=1, learning_rate=1e-12)
    assert model_path(again, make_domain(4), tmp_path) != source.path, "the content of the file counts"


def test_a_network_without_statistics_of_its_own_has_none_to_compare(trained, tmp_path, make_domain):
    config, domain, source = trained
    model = build_model(config.model, 2)
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(module, name, torch.nn.GroupNorm(1, child.num_features))
    found = examine(replace(source, model=model.eval()), domain, CPU, tmp_path / "x.json")
    assert found.dice_image_statistics is None


def test_an_imported_checkpoint_is_unknown_without_its_domain(trained, tmp_path):
    config, domain, source = trained
    path = tmp_path / "imported.ckpt"
    save_checkpoint(
        path,
        source.model.state_dict(),
        architecture=config.model.model_dump(mode="json", exclude={"preprocessing"}),
        preprocessing=source.model.preprocessing,
        classes=domain.classes,
        image_size=64,
        domain=None,
    )
    given = config.model_copy(update={"checkpoint": path, "source": "nowhere"})
    assert examined(given, load_checkpoint(path, given), {}, CPU) is None
    found = examined(given, load_checkpoint(path, given), {"nowhere": domain}, CPU)
    assert found.images == "seen or not"
    assert list((tmp_path / "examinations").iterdir()), "not beside a file of somebody"
