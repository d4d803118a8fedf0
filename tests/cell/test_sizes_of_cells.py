"""Cells on images of any size: padded or in tiles, scored at the size of the files, as predicted for a user."""

import numpy as np
import pytest
import torch
from PIL import Image

from tiny_cells import configure, execute, folder, interrupted, numbers, summary
from tta_bench.cell import Cell
from tta_bench.cli import main
from tta_bench.data.domain import class_channels
from tta_bench.data.prepare import prepared
from tta_bench.data.synthetic.render import render
from tta_bench.errors import UserError
from tta_bench.metrics.base import METRICS
from tta_bench.metrics.dice import dice_score
from tta_bench.ops.masks import Finish
from tta_bench.records.predictions import read_predictions

CLASSES = {"disc": (1, 2), "cup": (2,)}
SIZES = [(64, 64), (96, 70), (50, 120), (40, 40)]
WORDS = ("data=folder", "data.classes={disc: [1,2], cup: [2]}", "training.epochs=6", "source=D", "target=[A,C]")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three domains of images of four sizes."""
    root = tmp_path_factory.mktemp("images")
    for name in "ACD":
        for kind in ("image", "mask"):
            (root / name / kind).mkdir(parents=True)
        for k, (height, width) in enumerate(SIZES):
            image, mask = (each[:height, :width] for each in render(name, k, size=max(height, width)))
            Image.fromarray(image).save(root / f"{name}/image/{k}.png")
            Image.fromarray(mask).save(root / f"{name}/mask/{k}.png")
    return root


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def cell(images, results):
    def of(*words):
        return configure(results, *WORDS, f"data.root={images}", *words)

    return of


def stored_mask(images, name, k):
    return class_channels(np.array(Image.open(images / f"{name}/mask/{k}.png")), CLASSES)


@pytest.mark.parametrize("words", [("data.fit=pad",), ("data.fit=tile",), ("data.fit=stretch",)])
def test_scores_are_those_of_predictions_and_masks_as_stored(images, cell, words, capsys, tmp_path):
    config = cell("+method=tent", *words)
    printed = execute(config)
    assert "scored at the size of the files" in printed
    kept = {
        name: read_predictions(folder(config) / "predictions.npz", name, [(2, *size) for size in SIZES])
        for name in config.target
    }
    for row in numbers(config):
        mask = torch.from_numpy(kept[row["target"]].mask(int(row["index"])))
        expected = dice_score(mask, stored_mask(images, row["target"], row["index"])).tolist()
        assert [float(row["dice_disc"]), float(row["dice_cup"])] == expected
    # A metric that is asked for later is what it would have been at once.
    execute(cell("+method=tent", *words, "metrics=[dice,iou]"))
    for row in numbers(config):
        dice, iou = float(row["dice_disc"]), float(row["iou_disc"])
        assert iou == pytest.approx(100 * dice / (200 - dice), abs=1e-3)
    main(["evaluate", "--metrics", "sensitivity", folder(config).name, f"results_root={config.results_root}"])
    for row in numbers(config):
        mask = torch.from_numpy(kept[row["target"]].mask(int(row["index"])))
        expected = METRICS.get("sensitivity")(mask, stored_mask(images, row["target"], row["index"])).tolist()
        assert [float(row["sensitivity_disc"]), float(row["sensitivity_cup"])] == expected
    # And what a user gets of these images is what was scored.
    out, checkpoint = tmp_path / "out", f"checkpoint={summary(config)['source_checkpoint']['path']}"
    asked = [checkpoint, "+method=tent", "device=cpu", "--domain", "A", "--per-class", "--no-change"]
    main(["predict", str(images / "A/image"), str(out), *asked])
    for k in range(len(SIZES)):
        written = [np.asarray(Image.open(out / f"masks/{name}/{k}.png")) == 255 for name in CLASSES]
        assert np.array_equal(np.stack(written), kept["A"].mask(k))


def test_predictions_at_network_size_are_without_the_padding(cell):
    config = cell("+method=tent", "data.fit=pad", "protocol.score_at=network")
    assert "scored at the size of the network's input" in execute(config)
    shapes = prepared(config, config.target)["A"].prediction_shapes
    assert shapes == [(2, 64, 64), (2, 64, 47), (2, 27, 64), (2, 64, 64)]
    read_predictions(folder(config) / "predictions.npz", "A", shapes)


@pytest.mark.parametrize("fit", ["pad", "tile"])
def test_a_stopped_cell_goes_on_to_the_same_numbers(cell, fit):
    config = cell("+method=grata", f"data.fit={fit}")
    execute(config)
    expected, whole = numbers(config), (folder(config) / "predictions.npz").read_bytes()
    with interrupted(after=3):
        execute(config.model_copy(update={"force": True}))
    execute(config)
    assert numbers(config) == expected
    assert (folder(config) / "predictions.npz").read_bytes() == whole


@pytest.mark.parametrize("fit", ["pad", "tile"])
def test_streams_side_by_side_give_the_same_numbers(images, tmp_path, cell, fit):
    together = cell("+method=tent", f"data.fit={fit}", "lockstep=2")
    execute(together)
    alone = configure(tmp_path, *WORDS, f"data.root={images}", "+method=tent", f"data.fit={fit}", "lockstep=1")
    execute(alone)
    for one, other in zip(numbers(alone), numbers(together), strict=True):
        assert one.items() <= other.items()


def vessels(root):
    """Masks of lines one pixel wide on 200 x 300 pixels."""
    for name in "AD":
        for kind in ("image", "mask"):
            (root / name / kind).mkdir(parents=True)
        for k in range(3):
            mask = np.zeros((200, 300), np.uint8)
            mask[k::11] = 1
            mask[:, k::13] = 1
            Image.fromarray(mask).save(root / f"{name}/mask/{k}.png")
            Image.fromarray(np.repeat(mask[..., None] * 200 + 20, 3, 2)).save(root / f"{name}/image/{k}.png")
    return root


@pytest.mark.parametrize(
    ("fit", "score_at", "low", "high"),
    [("tile", "stored", 100, 100), ("tile", "network", 100, 100), ("stretch", "network", 100, 100),
     ("pad", "network", 100, 100), ("stretch", "stored", 5, 80), ("pad", "stored", 5, 80)],
)  # fmt: skip
def test_a_perfect_network_scores_100_only_if_nothing_is_lost_on_the_way(tmp_path, fit, score_at, low, high):
    words = ("data=folder", f"data.root={vessels(tmp_path / 'images')}", "target=A", "+method=no_adapt")
    config = configure(tmp_path / "results", *words, f"data.fit={fit}", f"protocol.score_at={score_at}")
    (domain,) = prepared(config, config.target).values()
    for k in range(len(domain)):
        perfect = 20 * domain.label(k).float() - 10
        found = Finish("sigmoid", 0.5)(domain.restored(perfect, k))
        assert low <= float(dice_score(found, domain.truth(k)).mean()) <= high + 1e-9
    if score_at == "stored":
        mask = np.array(Image.open(tmp_path / "images/A/mask/1.png"))
        assert np.array_equal(domain.truth(1)[0].numpy(), mask == 1)


def test_a_mask_that_changed_in_one_pixel_is_another(tmp_path):
    """Also one that the network never sees: it is what predictions are compared with."""
    root = vessels(tmp_path / "images")
    config = configure(tmp_path / "results", "data=folder", f"data.root={root}", "target=A", "+method=no_adapt")
    before = prepared(config, "A")["A"]
    path = root / "A/mask/0.png"
    mask = np.array(Image.open(path))
    mask[1, 1] = 1
    Image.fromarray(mask).save(path)
    after = prepared(config, "A")["A"]
    assert np.array_equal(before.masks, after.masks)
    assert before.fingerprint != after.fingerprint


def test_a_cup_outside_the_disc_is_told_and_taken_away_on_request(cell):
    config, nested = (
        cell("+method=bn_only", "target=A", "training.epochs=1", *more) for more in ((), ("predict.nest=true",))
    )
    found, kept = {}, {}
    for each in (config, nested):
        execute(each)
        masks = read_predictions(folder(each) / "predictions.npz", "A", [(2, *size) for size in SIZES])
        found[each.predict.nest] = np.concatenate([masks.mask(k).reshape(2, -1) for k in range(len(SIZES))], 1)
        kept[each.predict.nest] = summary(each)["outside"]
    disc, cup = found[False]
    assert np.array_equal(found[True], [disc, cup & disc])
    assert kept[True] == []
    pixels = int((cup & ~disc).sum())
    assert pixels > 0
    (told,) = kept[False]
    assert (told["class"], told["around"], told["pixels"], told["of"]) == ("cup", "disc", pixels, int(cup.sum()))
    assert "predicted outside disc" in " ".join(execute(config).split())
    assert Cell(config, 0).folder().hash != Cell(nested, 0).folder().hash


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("+method=tent", "predict.nest=true", "data.classes={a: [1], b: [2]}"), "leave predict.nest out"),
        (("+method=tent", "data.fit=crop"), "data.fit"),
    ],
)
def test_what_cannot_be_is_refused(cell, words, fault):
    with pytest.raises(UserError, match=fault):
        cell(*words)


def test_sizes_that_a_method_cannot_compare_are_named_before_any_work(cell, tmp_path):
    config = cell("+method=dltta", "data.fit=tile", f"results_root={tmp_path}")
    with pytest.raises(UserError, match=r"in target A they have several sizes \(64x64, but 70x96 of '1'\)"):
        execute(config)
    assert not (tmp_path / "source_models").exists()


def test_a_source_model_is_shown_images_as_it_was_trained_on_them(cell):
    config = cell("+method=no_adapt", "data.fit=tile")
    execute(config)
    checkpoint = summary(config)["source_checkpoint"]["path"]
    with pytest.raises(UserError, match=r"fitted by tile, but data\.fit=pad: use data\.fit=tile"):
        execute(cell("+method=no_adapt", f"checkpoint={checkpoint}"))
