import logging
import os
import random
import re
import signal
import threading
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from filelock import FileLock

from tta_bench.errors import UserError
from tta_bench.launch.progress import Watcher
from tta_bench.models.build import build_model
from tta_bench.models.checkpoint import read_checkpoint
from tta_bench.runtime.signals import Stopped
from tta_bench.source import callbacks, train
from tta_bench.source.callbacks import ProgressBar
from tta_bench.source.module import SourceTraining, polynomial_decay
from tta_bench.source.train import branch_cost, branchless_twin, cache_key, source_model

FIRST = "encoder.model.conv1.0.weight"
"""A weight of the first layer, on which all others act."""

MADE = {"model.ckpt", "optimizer.pt", "examination.json", "layer_updates.csv"}
"""What a training leaves."""


def weights(source) -> dict[str, torch.Tensor]:
    return source.model.state_dict()


def assert_same_bits(first, second) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


class KilledError(Exception):
    pass


def kill_in_epoch(epoch: int, kind: type[SourceTraining] = SourceTraining):
    """Patch the training so that it dies in the middle of an epoch counted from 0."""
    step = kind.training_step

    def dying(self, batch, batch_idx):
        if self.current_epoch == epoch and batch_idx == 1:
            raise KilledError
        return step(self, batch, batch_idx)

    return mock.patch.object(kind, "training_step", dying)


@pytest.fixture(autouse=True)
def save_every_epoch(monkeypatch):
    monkeypatch.setattr(callbacks, "_PARTIAL_SECONDS", 0.0)


def test_trains_once_then_loads(make_config, make_domain, tmp_path):
    config, domain = make_config(), make_domain()
    first = source_model(config, domain, tmp_path)
    assert first.path == tmp_path / "source_models" / cache_key(config, domain) / "model.ckpt"
    assert not first.model.training
    assert set(first.dice_in_domain_per_class) == {"disc", "cup"}
    assert 0 <= first.dice_in_domain <= 100
    assert first.training["epochs"] == 3
    assert first.fingerprint == "abc"
    assert {*os.listdir(first.path.parent)} - {"lock"} == MADE

    with mock.patch.object(train, "_train", side_effect=AssertionError("trained again")):
        second = source_model(config, domain, tmp_path)
    assert_same_bits(weights(first), weights(second))
    assert first.sha256 == second.sha256


def test_learns(learned):
    _, _, source = learned
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


def test_a_sweep_tells_how_far_its_own_source_models_are_and_no_others(make_config, make_domain, tmp_path, capsys):
    config, domain = make_config(), make_domain(6)
    others = make_config(seed=1), make_config(optimizer="sgd")
    lines = {}

    def told(*configs):
        run = {"results_root": tmp_path, "method": {"name": "no_adapt"}, "target": ("C",)}
        watcher = Watcher([config.model_copy(update=run) for config in configs])
        watcher._written = 0.0  # what lies there was written since
        capsys.readouterr()
        watcher.tell()
        return capsys.readouterr().out.partition(";")[2].strip()

    with kill_in_epoch(2), pytest.raises(KilledError):
        source_model(config, domain, tmp_path)
    lines["training"] = told(config), told(config, others[0]), told(others[0])
    lines["routed"] = told(config.model_copy(update={"source": "B", "route": ("A",)}))
    source_model(config, domain, tmp_path)
    lines["trained"] = told(config), told(*others)
    assert lines == {
        "training": ("source model A at epoch 2 of 3", "source model A, training seed 0, at epoch 2 of 3", ""),
        "routed": "source model A at epoch 2 of 3",
        "trained": ("1 source model trained", ""),
    }


LEFTOVERS = ("last.ckpt", "last.part", ".model.ckpt.123")


def test_what_a_killed_training_left_beside_a_finished_model_is_removed(make_config, make_domain, tmp_path):
    config, domain = make_config(epochs=1), make_domain()
    folder = source_model(config, domain, tmp_path).path.parent
    before = set(folder.iterdir())
    for name in LEFTOVERS:
        (folder / name).touch()
    with FileLock(folder / "lock"):
        source_model(config, domain, tmp_path)
        assert all((folder / name).exists() for name in LEFTOVERS), "a live process may be at them"
    source_model(config, domain, tmp_path)
    assert set(folder.iterdir()) == before


def test_a_training_removes_what_a_killed_one_before_it_left(make_config, make_domain, tmp_path):
    config, domain = make_config(epochs=1), make_domain()
    folder = tmp_path / "source_models" / cache_key(config, domain)
    folder.mkdir(parents=True)
    for name in LEFTOVERS[1:]:
        (folder / name).touch()
    source_model(config, domain, tmp_path)
    assert {path.name for path in folder.iterdir()} == {"lock"} | MADE


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Stopped(signal.SIGTERM), MemoryError()])
def test_what_ends_a_training_goes_through_lightning_as_it_is(make_config, make_domain, tmp_path, error):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    during = []

    def struck(self, batch, batch_idx):
        during.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
        raise error

    cluster = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "job"}
    with (
        mock.patch.dict(os.environ, cluster),
        mock.patch.object(SourceTraining, "training_step", struck),
        # The bar stops all the same: one left running would swallow the frames of those after it.
        mock.patch.object(ProgressBar, "on_exception", autospec=True, side_effect=ProgressBar.on_exception) as bar,
        pytest.raises(type(error)) as raised,
    ):
        source_model(make_config(), make_domain(), tmp_path)
    assert raised.value is error
    assert during == handlers
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == handlers
    assert bar.call_count == 1


@pytest.mark.parametrize("damage", ["empty", "half", "a byte", "folder", "another model"])
def test_a_damaged_model_is_trained_again_to_the_same_bytes(make_config, make_domain, tmp_path, caplog, damage):
    config, domain = make_config(epochs=1), make_domain()
    path = source_model(config, domain, tmp_path).path
    sound = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "another model":
        path.write_bytes(
            source_model(make_config(epochs=1, model={"encoder": "resnet18"}), domain, tmp_path).path.read_bytes()
        )
    else:
        middle = len(sound) // 2
        changed = sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :]
        path.write_bytes({"empty": b"", "half": sound[:middle], "a byte": changed}[damage])
    caplog.clear()
    assert source_model(config, domain, tmp_path).path.read_bytes() == sound
    assert caplog.text.count(f"training the source model A again: checkpoint {path}") == 1


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
    config, domain = make_config(learning_rate=1e9, optimizer="sgd"), make_domain()
    with pytest.raises(UserError, match=r"diverged in epoch \d.*lower training.learning_rate=1000000000"):
        source_model(config, domain, tmp_path)
    assert not list(tmp_path.rglob("model.ckpt"))


@pytest.mark.parametrize(("count", "held_out"), [(1, 0.0), (2, 0.25)])
def test_too_few_images_are_refused(make_config, make_domain, tmp_path, count, held_out):
    with pytest.raises(UserError, match=f"source=A has {count} images, {int(held_out > 0)} of them held out"):
        source_model(make_config(holdout=held_out), make_domain(count), tmp_path)


def test_a_source_without_foreground_is_refused_before_training(make_config, make_domain, tmp_path):
    domain = make_domain(4)
    empty = replace(domain, masks=np.zeros_like(domain.masks))
    with pytest.raises(UserError, match="source=A has no foreground in any of the 3 masks to train on"):
        source_model(make_config(holdout=0.25), empty, tmp_path)


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
    assert key == cache_key(make_config(momentum=0.9, nesterov=True), make_domain()), "of SGD, and this is Adam"
    different = [
        cache_key(make_config(epochs=4), make_domain()),
        cache_key(make_config(augmentation={"flip": 0.1}), make_domain()),
        cache_key(make_config(legacy_unaligned_mask=True), make_domain()),
        cache_key(make_config(model={"branches": ["rotation"]}), make_domain()),
        cache_key(make_config(), make_domain(fingerprint="changed")),
    ]
    assert len({key, *different}) == 6


def test_the_weights_of_branches_count_only_where_there_are_branches(make_config, make_domain):
    lighter, branch = {"branch_weights": {"rotation": 0.01}}, {"model": {"branches": ["rotation"]}}
    assert cache_key(make_config(**lighter), make_domain()) == cache_key(make_config(), make_domain())
    assert cache_key(make_config(**lighter, **branch), make_domain()) != cache_key(make_config(**branch), make_domain())
    assert "branch_weights" not in make_config().training.content(())
    assert make_config(**lighter).training.content(["rotation"])["branch_weights"]["rotation"] == 0.01
    assert {"name", "workers"}.isdisjoint(make_config().training.content(["rotation"]))


def test_a_branch_of_weight_zero_leaves_the_segmentation_the_gradient_it_has_without_it(make_config, make_domain):
    domain = make_domain()
    batch = torch.stack([domain.image(i) for i in range(4)]), torch.stack([domain.label(i) for i in range(4)])
    gradients = []
    for branches, weight in ((), 0.1), (("rotation",), 0.0), (("rotation",), 0.1):
        config = make_config(model={"branches": branches}, branch_weights={"rotation": weight})
        torch.manual_seed(0)
        model = build_model(config.model, 2)
        model.load_state_dict(gradients[0][0] if gradients else model.state_dict(), strict=False)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        training = SourceTraining(model.train(), config.training)
        # Without a trainer the epoch is 0.
        training.training_step(batch, 0).backward()
        gradients.append((state, {name: value.grad for name, value in model.named_parameters()}))
    plain, switched_off, weighted = (found for _, found in gradients)
    for name, gradient in plain.items():
        torch.testing.assert_close(switched_off[name], gradient, rtol=0, atol=0, msg=name)
    assert not switched_off["branches.rotation.linear3.weight"].any()
    assert weighted["branches.rotation.linear3.weight"].any()
    assert not torch.equal(weighted[FIRST], plain[FIRST])


@pytest.mark.parametrize(("fall", "level"), [(-3.0, "INFO"), (1.0, "INFO"), (1.25, "WARNING")])
def test_what_branches_cost_the_segmentation_is_said_once_there_is_a_twin_without_them(
    make_config, make_domain, tmp_path, caplog, monkeypatch, fall, level
):
    dice = iter([{"disc": 80.0, "cup": 70.0}, {"disc": 80.0, "cup": 70.0 - 2 * fall}])
    monkeypatch.setattr(train, "in_domain_dice", lambda *args: next(dice))
    monkeypatch.setattr(callbacks, "_PARTIAL_SECONDS", 60.0)
    caplog.set_level(logging.INFO, logger="tta_bench")
    with_branches = make_config(epochs=1, model={"branches": ["rotation"]}, branch_weights={"rotation": 0.5})
    plain = source_model(make_config(epochs=1, workers=1, name="other"), make_domain(), tmp_path)
    assert "branches" not in caplog.text
    branched = read_checkpoint(source_model(with_branches, make_domain(), tmp_path).path)
    (record,) = [record for record in caplog.records if "branches cost" in record.message]
    assert f"source model A: its branches cost {fall:.2f} points" in record.message
    assert record.levelname == level
    assert ("training.branch_weights" in record.message) == (level == "WARNING")
    twin = branchless_twin(branched, tmp_path)
    assert twin.path == plain.path
    assert branch_cost(branched, twin) == pytest.approx(fall)
    assert branch_cost(branched, branchless_twin(branched, tmp_path / "elsewhere")) is None


def test_without_a_twin_of_equal_settings_it_is_said_how_to_get_one_and_without_a_dice_nothing(
    make_config, make_domain, tmp_path, caplog
):
    caplog.set_level(logging.INFO, logger="tta_bench")
    branch = {"model": {"branches": ["rotation"]}}
    source_model(make_config(epochs=1, holdout=0.0), make_domain(), tmp_path)
    unmeasured = read_checkpoint(
        source_model(make_config(epochs=1, holdout=0.0, **branch), make_domain(), tmp_path).path
    )
    assert branch_cost(unmeasured, branchless_twin(unmeasured, tmp_path)) is None
    assert "branches" not in caplog.text
    other = read_checkpoint(source_model(make_config(epochs=1, seed=1, **branch), make_domain(), tmp_path).path)
    assert branchless_twin(other, tmp_path) is None
    assert "run +method=no_adapt with model.branches=[] to know what its branches cost" in caplog.text


def test_polynomial_decay():
    assert polynomial_decay(0, 10, 0.9) == 1
    assert polynomial_decay(5, 10, 0.9) == pytest.approx(0.5**0.9)
    assert polynomial_decay(9, 10, 0.0) == 1


def test_the_console_shows_one_bar_and_nothing_else(make_config, make_domain, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source_model(make_config(epochs=2), make_domain(), tmp_path)
    out, err = capfd.readouterr()
    assert err == ""
    text = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", out)  # a terminal, or FORCE_COLOR, has colours and several frames
    frames = [line for line in text.splitlines() if line.strip()]
    assert all(line.startswith("source model A: epoch ") for line in frames), out
    assert frames[-1].startswith("source model A: epoch 2/2, loss")
    assert os.listdir(tmp_path) == ["source_models"]
