"""A training that is followed gives the same weights, and tells every epoch, also after it was killed."""

from contextlib import contextmanager

import pytest
from test_train import KilledError, assert_same_bits, kill_in_epoch, weights

import tta_bench.source.callbacks as callbacks
from tta_bench.source.train import source_model


def follower():
    """What follows trainings, and per training: whether it went on, what was told, and how it ended."""
    seen = []

    @contextmanager
    def follow(folder, going_on):
        seen.append([going_on, [], "open"])
        try:
            yield lambda epoch, values: seen[-1][1].append((epoch, values))
        except KilledError:
            seen[-1][2] = "killed"
            raise
        assert (folder / "model.ckpt").is_file()
        seen[-1][2] = "done"

    return follow, seen


def test_following_changes_no_weight_and_tells_every_epoch_again(make_config, make_domain, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "_PARTIAL_SECONDS", 0.0)
    config, domain = make_config(), make_domain(6)
    plain = source_model(config, domain, tmp_path / "plain")
    follow, whole = follower()
    followed = source_model(config, domain, tmp_path / "followed", follow)
    assert_same_bits(weights(plain), weights(followed))
    follow_again, parts = follower()
    with kill_in_epoch(2), pytest.raises(KilledError):
        source_model(config, domain, tmp_path / "killed", follow_again)
    resumed = source_model(config, domain, tmp_path / "killed", follow_again)
    assert_same_bits(weights(plain), weights(resumed))
    ((going_on, told, end),) = whole
    assert (going_on, end, [epoch for epoch, _ in told]) == (False, "done", [1, 2, 3])
    assert [(part[0], part[2]) for part in parts] == [(False, "killed"), (True, "done")]
    assert parts[0][1] == told[:2]
    assert parts[1][1] == told
    assert told[-1][1]["held_out_dice"] == pytest.approx(followed.dice_in_domain)
    assert told[0][1]["lr"] == config.training.learning_rate
    source_model(config, domain, tmp_path / "followed", follow)
    assert len(whole) == 1, "nothing is trained"
