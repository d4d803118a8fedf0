import logging
import os
import random
import threading
from unittest import mock

import numpy as np
import pytest
import torch
from filelock import FileLock

from tta_bench.errors import UserError
from tta_bench.models.checkpoint import read_checkpoint
from tta_bench.source import train
from tta_bench.source.module import SourceTraining, polynomial_decay
from tta_bench.source.train import cache_key, source_model


def weights(source) -> dict[str, torch.Tensor]:
    return source.model.state_dict()


def assert_same_bits(first, second) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


class KilledError(Exception):
    pass


def kill_in_epoch(epoch: int):
    """Patch the training so that it dies in the middle of an epoch counted from 0."""
    step = SourceTraining.training_step

    def dying(self, batch, batch_idx):
        if self.current_epoch == epoch and batch_idx == 1:
            raise KilledError
        return step(self, batch, batch_idx)

    return mock.patch.object(SourceTraining, "training_step", dying)


@pytest.fixture(autouse=True)
def save_every_epoch(monkeypatch):
    monkeypatch.setattr(train, "_PARTIAL_SECONDS", 0.0)


def test_trains_once_then_loads(make_config, make_domain, tmp_path):
    config, domain = make_config(), make_domain()
    first = source_model(config, domain, tmp_path)
    assert first.path == tmp_path / "source_models" / cache_key(config, domain) / "model.ckpt"
    assert not first.model.training
    assert set(first.dice_in_domain_per_class) == {"disc", "cup"}
    assert 0 <= first.dice_in_domain <= 100
    assert first.training["epochs"] == 3
    assert first.fingerprint == "abc"
    assert sorted(os.listdir(first.path.parent)) in (["lock", "model.ckpt"], ["model.ckpt"])

    with mock.patch.object(train, "_train", side_effect=AssertionError("trained again")):
        second = source_model(config, domain, tmp_path)
    assert_same_bits(weights(first), weights(second))
    assert first.sha256 == second.sha256


def test_learns(make_config, make_domain, tmp_path):
    config = make_config(epochs=25, learning_rate=3e-3, batch_size=8, augmentation={"elastic": 0.0, "affine": 0.0})
    source = source_model(config, make_domain(20), tmp_path)
    assert source.dice_in_domain_per_class["disc"] > 90
    assert source.dice_in_domain_per_class["cup"] > 75


def test_is_deterministic_and_leaves_the_global_random_state_alone(make_config, make_domain, tmp_path):
    config, domain = make_config(epochs=1), make_domain()
    first = source_model(config, domain, tmp_path / "1")
    torch.manual_seed(123)
    np.random.seed(123)
    random.seed(123)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    second = source_model(config, domain, tmp_path / "2")
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert states[2] == random.getstate()
    assert first.path.read_bytes() == second.path.read_bytes()
    other = source_model(make_config(epochs=1, seed=1), domain, tmp_path / "1")
    assert other.path != first.path
    assert not torch.equal(weights(other)["head.0.weight"], weights(first)["head.0.weight"])


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam"},
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
        {"model": {"branches": ["denoising", "rotation"]}},
    ],
)
def test_a_killed_training_resumes_with_the_same_bits(make_config, make_domain, tmp_path, settings):
    config, domain = make_config(**settings), make_domain(6)
    whole = source_model(config, domain, tmp_path / "whole")
    with kill_in_epoch(2), pytest.raises(KilledError):
        source_model(config, domain, tmp_path / "killed")
    folder = tmp_path / "killed" / "source_models" / cache_key(config, domain)
    assert (folder / "last.ckpt").exists()
    assert not (folder / "model.ckpt").exists()

    epochs = []
    step = SourceTraining.training_step

    def recording(self, batch, batch_idx):
        epochs.append(self.current_epoch)
        return step(self, batch, batch_idx)

    with mock.patch.object(SourceTraining, "training_step", recording):
        resumed = source_model(config, domain, tmp_path / "killed")
    assert set(epochs) == {2}
    assert_same_bits(weights(whole), weights(resumed))
    assert not (folder / "last.ckpt").exists()


@pytest.mark.parametrize("content", [b"", b"half a file", None])
def test_a_broken_partial_checkpoint_is_ignored(make_config, make_domain, tmp_path, caplog, content):
    config, domain = make_config(epochs=1), make_domain()
    whole = source_model(config, domain, tmp_path / "whole")
    folder = tmp_path / "broken" / "source_models" / cache_key(config, domain)
    folder.mkdir(parents=True)
    if content is None:
        torch.save({"state_dict": {}}, folder / "last.ckpt")
    else:
        (folder / "last.ckpt").write_bytes(content)
    source = source_model(config, domain, tmp_path / "broken")
    assert_same_bits(weights(whole), weights(source))
    assert "last.ckpt" in caplog.text
    assert "training anew" in caplog.text


def test_the_second_of_two_processes_waits_and_loads(make_config, make_domain, tmp_path, caplog):
    config, domain = make_config(epochs=1), make_domain()
    finished = source_model(config, domain, tmp_path / "other")
    folder = tmp_path / "mine" / "source_models" / cache_key(config, domain)
    folder.mkdir(parents=True)
    results = []
    caplog.set_level(logging.INFO)
    with mock.patch.object(train, "_train", side_effect=AssertionError("trained again")):
        with FileLock(folder / "lock"):
            waiting = threading.Thread(target=lambda: results.append(source_model(config, domain, tmp_path / "mine")))
            waiting.start()
            waiting.join(0.5)
            assert waiting.is_alive()
            (folder / "model.ckpt").write_bytes(finished.path.read_bytes())
        waiting.join(20)
    assert results[0].sha256 == finished.sha256
    assert "waiting for another process" in caplog.text


def test_a_diverging_training_leaves_no_finished_model(make_config, make_domain, tmp_path):
    config, domain = make_config(learning_rate=1e30, optimizer="sgd"), make_domain()
    with pytest.raises(UserError, match=r"diverged in epoch \d.*lower training.learning_rate=1e\+30"):
        source_model(config, domain, tmp_path)
    assert not list(tmp_path.rglob("model.ckpt"))


@pytest.mark.parametrize(("count", "held_out"), [(1, 0.0), (2, 0.25)])
def test_too_few_images_are_refused(make_config, make_domain, tmp_path, count, held_out):
    with pytest.raises(UserError, match=f"source=A has {count} images, {int(held_out > 0)} of them held out"):
        source_model(make_config(holdout=held_out), make_domain(count), tmp_path)


def test_a_domain_smaller_than_the_batch_and_no_holdout(make_config, make_domain, tmp_path):
    source = source_model(make_config(batch_size=8, holdout=0.0, epochs=1), make_domain(3), tmp_path)
    assert source.dice_in_domain is None
    assert read_checkpoint(source.path).dice_in_domain_per_class is None


def test_a_missing_gpu_is_refused(make_config, make_domain, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device=cuda"):
        source_model(make_config(device="cuda"), make_domain(), tmp_path)


def test_the_key_covers_what_determines_the_weights_and_nothing_else(make_config, make_domain):
    key = cache_key(make_config(), make_domain())
    assert key == cache_key(make_config(workers=4, name="other"), make_domain())
    different = [
        cache_key(make_config(epochs=4), make_domain()),
        cache_key(make_config(augmentation={"flip": 0.1}), make_domain()),
        cache_key(make_config(legacy_unaligned_mask=True), make_domain()),
        cache_key(make_config(model={"branches": ["rotation"]}), make_domain()),
        cache_key(make_config(), make_domain(fingerprint="changed")),
    ]
    assert len({key, *different}) == 6


def test_polynomial_decay():
    assert polynomial_decay(0, 10, 0.9) == 1
    assert polynomial_decay(5, 10, 0.9) == pytest.approx(0.5**0.9)
    assert polynomial_decay(9, 10, 0.0) == 1


def test_the_console_shows_one_bar_and_nothing_else(make_config, make_domain, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source_model(make_config(epochs=2), make_domain(), tmp_path)
    out, err = capfd.readouterr()
    assert err == ""
    assert [line for line in out.splitlines() if line.strip()] == [
        line for line in out.splitlines() if line.startswith("source model A: epoch 2/2, loss")
    ]
    assert os.listdir(tmp_path) == ["source_models"]
