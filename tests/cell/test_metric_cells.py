"""A metric is one file: it is asked for by its name, and finished cells get it without being computed again."""

import importlib
import sys

import pytest

from tiny_cells import configure, execute, folder, rows, summary
from tta_bench.cell import Cell
from tta_bench.launch.targets import with_targets
from tta_bench.metrics.base import METRICS

MISSED = """
from tta_bench.metrics.base import register_metric

@register_metric("missed", "px", higher_is_better=False)
def missed(prediction, truth):
    return (truth & ~prediction).sum(dim=(-2, -1)).double()
"""
COLUMNS = ["missed_disc", "missed_cup", "missed"]


@pytest.fixture
def missed(tmp_path, monkeypatch):
    """A module with a metric, as somebody might write it."""
    METRICS.names()
    (tmp_path / "missed_pixels.py").write_text(MISSED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(METRICS, "_items", dict(METRICS._items))
    importlib.import_module("missed_pixels")
    yield
    del sys.modules["missed_pixels"]


def untimed(config):
    """All that the files of a cell tell, but times and memory."""
    content = {key: value for key, value in summary(config).items() if not key.startswith(("seconds", "peak"))}
    content["targets"] = {
        name: {key: value for key, value in target.items() if key != "seconds_per_image"}
        for name, target in content["targets"].items()
    }
    return [list({**row, "seconds": ""}.items()) for row in rows(config)], list(content.items())


@pytest.mark.usefixtures("missed")
def test_a_metric_of_one_file_is_in_all_results_of_a_cell_new_or_finished(root, computed, caplog):
    caplog.set_level("INFO", logger="tta_bench")
    plain = configure(root, "+method=bn_only", "target=A")
    config = configure(root, "+method=bn_only", "target=A", "metrics=[missed]")
    assert config.metrics == ("dice", "missed")
    assert folder(plain) == folder(config)
    execute(plain)
    dice = rows(plain)
    assert not {*COLUMNS} & {*dice[0], *summary(plain)}

    cell = Cell.of(with_targets(config), 0)
    assert cell.finished() is None, "it lacks what is asked for"
    execute(config)
    assert computed == ["no_adapt", "bn_only"]
    assert "scored by missed, too" in caplog.text
    assert cell.finished() is not None
    added = rows(config)
    assert list(added[0])[6:13] == ["dice_disc", "dice_cup", "dice", *COLUMNS, "position"]
    assert [{key: value for key, value in row.items() if key not in COLUMNS} for row in added] == dice
    for row in added:
        assert float(row["missed"]) == (float(row["missed_disc"]) + float(row["missed_cup"])) / 2
    target = summary(config)["targets"]["A"]
    assert target["missed"] == pytest.approx(sum(float(row["missed"]) for row in added) / 4)
    assert summary(config)["missed"] == target["missed"] > 0

    scored = untimed(config)
    execute(config.model_copy(update={"force": True}))
    assert computed == ["no_adapt", "bn_only"] * 2
    assert untimed(config) == scored
    execute(plain)
    assert len(computed) == 4, "more than is asked for is enough"


@pytest.mark.usefixtures("missed")
def test_without_predictions_a_cell_is_computed_again_for_a_metric(root, computed):
    execute(configure(root, "+method=no_adapt", "target=A"))
    config = configure(root, "+method=no_adapt", "target=A", "metrics=[missed]")
    (folder(config) / "predictions.npz").unlink()
    execute(config)
    assert computed == ["no_adapt"] * 2
    assert "missed" in summary(config)
