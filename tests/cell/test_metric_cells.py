"""A metric is one file: it is asked for by its name, and finished cells get it without being computed again."""

import importlib
import json
import math
import sys

import numpy as np
import pytest
from PIL import Image

from tiny_cells import configure, execute, folder, random_pairs, rows, summary
from tta_bench.cell import Cell
from tta_bench.cli import main
from tta_bench.launch.targets import with_targets
from tta_bench.metrics.base import METRICS
from tta_bench.sinks.cells import Followed

MISSED = """
from tta_bench.metrics.base import register_metric

@register_metric("missed", "px", direction="lower", range=(0, float("inf")))
def missed(prediction, truth):
    return float((truth & ~prediction).sum())
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
    assert "now scored by missed, too" in caplog.text
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


def test_metrics_come_later_to_cells_of_any_code_and_are_those_of_a_run_that_asks_for_them(root, computed, capsys):
    asked = "metrics=[hd95,surfacedice,vcdr,foreground]"
    config = configure(root, "+method=bn_only", "target=A", asked)
    execute(config)
    scored, codes = untimed(config), summary(config)["metrics"]
    main(["report", folder(config).name, f"results_root={root}", "--metric", "dice,hd95"])
    reports = root / f"reports/cells_{folder(config).name}"
    assert "HD95 in px (lower is better)" in (reports / "hd95/table.md").read_text()
    assert "HD95" not in (reports / "table.md").read_text()
    cell = Cell.of(with_targets(config), 0)
    compared = Followed(cell.config, 0, cell.folder(), cell.beside(), {})._compared()
    without = compared["compared/hd95_no_adapt"]
    assert compared["compared/hd95_gain_over_no_adapt"] == without - summary(config)["hd95"]
    assert compared["A/gain_over_no_adapt"] == summary(config)["dice"] - compared["compared/no_adapt"]
    capsys.readouterr()
    execute(configure(root, "+method=bn_only", "target=A", "force=true"))
    path = folder(config) / "summary.json"
    path.write_text(json.dumps(summary(config) | {"code": "of an earlier version"}))
    words = ["evaluate", "--metrics", "hd95,surfacedice,vcdr,foreground", folder(config).name, f"results_root={root}"]
    main(words)
    told = "cells scored by hd95 and surfacedice and vcdr and foreground: 2; before: 0; unfinished: 0"
    assert told in capsys.readouterr().out
    assert summary(config)["metrics"] == codes
    columns, content = untimed(config)
    assert columns == scored[0]
    assert dict(content) == dict(scored[1]) | {"code": "of an earlier version"}
    assert len(computed) == 4
    main(words)
    assert "foreground: 0; before: 2; unfinished: 0" in capsys.readouterr().out

    with pytest.raises(SystemExit) as left:
        main(["evaluate", "--metrics", "ece", folder(config).name, f"results_root={root}"])
    assert left.value.code == 2
    assert "metrics=ece needs probabilities, and a cell keeps masks alone: run" in capsys.readouterr().err


def test_metrics_of_probabilities_compute_a_finished_cell_again(root, computed, caplog):
    caplog.set_level("INFO", logger="tta_bench")
    execute(configure(root, "+method=no_adapt", "target=A"))
    dice = rows(configure(root, "+method=no_adapt", "target=A"))
    config = configure(root, "+method=no_adapt", "target=A", "metrics=[ece,brier]")
    execute(config)
    assert computed == ["no_adapt"] * 2
    assert "ece and brier needs probabilities, and a cell keeps masks alone" in caplog.text
    for before, now in zip(dice, rows(config), strict=True):
        assert all(now[key] == value for key, value in before.items() if key != "seconds")
        assert 0 < float(now["brier"]) < 1
        assert 0 < float(now["ece_cup"]) < 100
    execute(config)
    assert len(computed) == 2


def test_classes_that_are_nowhere_are_scored_or_skipped_and_counted_as_asked(root, tmp_path):
    images = random_pairs(tmp_path / "images", {"A": 3, "D": 3})
    for index in range(2):
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(images / f"A/mask/{index}.png")
    own = ["data=folder", f"data.root={images}", "target=A", "protocol.threshold=0.999999", "metrics=[hd95]"]
    one, skip = (configure(root, "+method=no_adapt", *own, f"protocol.empty={rule}") for rule in ("one", "skip"))
    texts = [execute(config) for config in (one, skip)]
    assert folder(one) != folder(skip)
    assert (
        summary(one)["empty_masks"]
        == summary(skip)["empty_masks"]
        == {"A": {"foreground": {"both": 2, "prediction": 1}}}
    )
    assert "empty" not in summary(one)["protocol"]
    assert [round(float(row["dice"])) for row in rows(one)] == [100, 100, 0]
    assert [row["dice"] for row in rows(skip)[:2]] == ["nan"] * 2
    diagonal = math.hypot(64, 64)
    assert [float(row["hd95"]) for row in rows(one)] == [0, 0, pytest.approx(diagonal)]
    assert summary(one)["hd95"] == pytest.approx(diagonal / 3)
    assert summary(skip)["hd95"] == pytest.approx(diagonal)
    assert summary(skip)["dice"] == pytest.approx(0, abs=1e-6)
    told = [" ".join(text.replace("\u2502", " ").split()) for text in texts]
    assert all("counts as the diagonal of the image there, masks: no_adapt 1." in text for text in told)
    assert ["protocol.empty=skip" in text for text in told] == [False, True]

    for index in range(3):
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(images / f"A/mask/{index}.png")
    execute(skip)
    assert summary(skip)["dice"] is None
    assert Cell.of(with_targets(skip), 0).finished() is not None
