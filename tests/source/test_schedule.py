"""How long a source model is trained: steps, the best epoch, an early end, and all of it again after a kill."""

import pytest
import torch
from pydantic import ValidationError
from test_train import FIRST, KilledError, assert_same_bits, kill_in_epoch, weights

from tta_bench.models.checkpoint import read_checkpoint, read_description
from tta_bench.source import callbacks, train
from tta_bench.source.module import SourceTraining
from tta_bench.source.schedule import ENOUGH_IMAGES, steps_per_epoch, total_epochs
from tta_bench.source.train import branchless_path, cache_key, serves, source_model


@pytest.fixture(autouse=True)
def save_every_epoch(monkeypatch):
    monkeypatch.setattr(callbacks, "_PARTIAL_SECONDS", 0.0)


def recorded_steps(monkeypatch):
    """Epoch of every step that is taken."""
    epochs, step = [], SourceTraining.training_step

    def recording(self, batch, batch_idx):
        epochs.append(self.current_epoch)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SourceTraining, "training_step", recording)
    return epochs


@pytest.mark.parametrize("images", [2, 3, 15, 16, 17, 20, 79, ENOUGH_IMAGES, 81, 800])
@pytest.mark.parametrize("batch", [2, 7, 8])
def test_few_images_get_the_steps_of_enough_and_enough_get_what_is_asked_for(make_config, images, batch):
    training = make_config(epochs=20, batch_size=batch, min_steps=None).training
    enough = 20 * steps_per_epoch(ENOUGH_IMAGES, batch)
    epochs, steps = total_epochs(training, images), steps_per_epoch(images, batch)
    assert epochs >= 20
    assert epochs * steps >= min(enough, 20 * steps)
    assert epochs * steps >= enough, "no fewer than eighty images give"
    assert epochs == 20 or (epochs - 1) * steps < enough, "and not an epoch more"
    if images >= ENOUGH_IMAGES:
        assert epochs == 20


def test_steps_are_counted_as_lightning_takes_them(make_config, make_domain, tmp_path, monkeypatch):
    taken = recorded_steps(monkeypatch)
    config = make_config(epochs=2, min_steps=7, batch_size=2)
    source = source_model(config, make_domain(7), tmp_path)  # five to train on: two batches, a last one dropped
    assert len(taken) == 8
    assert read_description(source.path).more_epochs == 4


def test_enough_steps_change_neither_key_nor_file_and_more_change_both(make_config, make_domain, tmp_path):
    config, domain = make_config(epochs=4, holdout=0.25), make_domain(8)
    usual = source_model(config, domain, tmp_path)
    same = make_config(epochs=4, holdout=0.25, min_steps=0, keep="last", precision="f32", patience=None)
    assert source_model(same, domain, tmp_path).path == usual.path
    assert read_description(usual.path).more_epochs is None
    assert cache_key(make_config(epochs=4, min_steps=12), domain) == cache_key(config, domain)
    assert cache_key(make_config(epochs=4, min_steps=13), domain) != cache_key(config, domain)
    assert not {"keep", "patience", "precision", "more_epochs"} & {*usual.training}
    asked = make_config(epochs=2, holdout=0.25, min_steps=10)
    longer = source_model(asked, domain, tmp_path)
    description = read_description(longer.path)
    assert description.more_epochs == 4  # of three batches
    assert longer.path.parent.name == cache_key(asked, domain)
    assert_same_bits(weights(longer), weights(usual))
    run = asked.model_copy(update={"source": "A"})
    assert serves(description, run)
    assert not serves(description, config)
    assert branchless_path(description, tmp_path) == longer.path


SETTINGS = [
    {"keep": "best"},
    {"patience": 2, "keep": "best"},
    {"patience": 1, "keep": "last", "min_steps": 8},
    {"precision": "bf16"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_killed_training_resumes_to_the_same_bits(make_config, make_domain, tmp_path, settings):
    config, domain = make_config(epochs=5, learning_rate=3e-2, **settings), make_domain(6)
    whole = source_model(config, domain, tmp_path / "whole")
    with kill_in_epoch(2), pytest.raises(KilledError):
        source_model(config, domain, tmp_path / "killed")
    assert (tmp_path / "killed" / "source_models" / cache_key(config, domain) / "last.ckpt").exists()
    resumed = source_model(config, domain, tmp_path / "killed")
    assert whole.path.read_bytes() == resumed.path.read_bytes()


def scores_of(monkeypatch, *dice):
    """Held-out Dice of the epochs, as given."""
    values = iter(dice)
    monkeypatch.setattr(train, "held_out_dice", lambda *_: {"held_out_dice": next(values)})


def states(monkeypatch):
    """The network's first weight after every epoch."""
    seen, end = [], callbacks.HeldOutScores.on_train_epoch_end

    def noting(self, trainer, module):
        seen.append(module.model.get_parameter(FIRST).detach().clone())
        end(self, trainer, module)

    monkeypatch.setattr(callbacks.HeldOutScores, "on_train_epoch_end", noting)
    return seen


def test_the_first_of_the_best_epochs_is_kept(make_config, make_domain, tmp_path, monkeypatch):
    seen = states(monkeypatch)
    scores_of(monkeypatch, 10.0, 50.0, 20.0, 50.0)
    source = source_model(make_config(epochs=4, keep="best"), make_domain(6), tmp_path)
    assert len(seen) == 4
    assert torch.equal(read_checkpoint(source.path).state[FIRST], seen[1])


@pytest.mark.parametrize(("least", "epochs"), [(0, 4), (10, 5), (99, 6)])
def test_a_training_ends_when_it_has_waited_and_had_its_steps(
    make_config, make_domain, tmp_path, monkeypatch, least, epochs
):
    seen = states(monkeypatch)
    scores_of(monkeypatch, 10.0, 50.0, 20.0, 30.0, 40.0, 45.0, *[0.0] * 99)
    config = make_config(epochs=6, patience=2, min_steps=min(least, 12), batch_size=2)
    source = source_model(config, make_domain(6), tmp_path)  # four to train on: two steps an epoch
    assert len(seen) == epochs
    assert torch.equal(read_checkpoint(source.path).state[FIRST], seen[-1])


@pytest.mark.parametrize("settings", [{"keep": "best"}, {"patience": 3}])
def test_choosing_by_held_out_images_needs_some(make_config, settings):
    with pytest.raises(ValidationError, match=r"training\.holdout=0 holds none out: set training\.holdout=0\.2"):
        make_config(holdout=0.0, **settings)


def test_half_precision_learns_and_leaves_weights_in_float32(make_config, make_domain, tmp_path):
    config = make_config(epochs=2, precision="bf16")
    half, full = (source_model(each, make_domain(6), tmp_path) for each in (config, make_config(epochs=2)))
    assert half.path != full.path
    assert all(value.dtype in (torch.float32, torch.int64) for value in weights(half).values())
    first, second = weights(half)[FIRST], weights(full)[FIRST]
    assert not torch.equal(first, second)
    torch.testing.assert_close(first, second, rtol=0.1, atol=0.02)
