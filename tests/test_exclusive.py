"""Classes that exclude each other, from the data set to the predictions of every method."""

import csv
import json

import pytest
import torch

from tta_bench.cell import Cell, run
from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.grammar import quote_lists
from tta_bench.launch.network_check import check_networks
from tta_bench.methods.base import METHODS
from tta_bench.models.checkpoint import load_checkpoint, read_checkpoint
from tta_bench.records.predictions import read_predictions

RIM_AND_CUP = ("data.classes={rim: [1], cup: [2]}", "data.exclusive=true")
TINY = (
    "data.image_size=64",
    "data.limit=2",
    "training.epochs=1",
    "training.learning_rate=1e-6",  # as drawn, a network sees something everywhere
    "training.seed=1",
    "training.min_steps=0",
    "training.holdout=0",
    "model.encoder=tu-test_resnet",
    "model.decoder_channels=[16,16,8,8,8]",
    "model.branches=[denoising]",
    "source=D",
    "target=A",
    "device=cpu",
)


def configure(root, method, *overrides):
    trained = not any(word.startswith("checkpoint=") for word in overrides)
    tiny = [word for word in TINY if trained or not word.startswith("training.")]
    words = [f"+method={method}", *tiny, f"results_root={root}", *overrides]
    (config,) = check(quote_lists(words, False), multirun=False)
    return config


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A results folder with the source model and prepared images."""
    root = tmp_path_factory.mktemp("exclusive")
    list(run(configure(root, "no_adapt", *RIM_AND_CUP)))
    return root


@pytest.mark.parametrize("name", METHODS.names())
def test_no_pixel_has_two_classes(root, name):
    config = configure(root, name, *RIM_AND_CUP)
    ((cell, (summary, rows), _),) = run(config)
    predicted = read_predictions(cell.folder().predictions, "A", [(2, 64, 64)] * 2)
    masks = torch.stack([torch.from_numpy(predicted.mask(index)) for index in range(2)])
    assert masks.any(1).any()
    assert not masks.all(1).any()
    assert summary["targets"]["A"].keys() >= {"dice_rim", "dice_cup", "dice"}
    assert len(rows) == 2
    assert json.loads((cell.folder().path / "summary.json").read_text())["dice"] == summary["dice"]
    assert list(csv.DictReader((cell.folder().path / "per_image.csv").open(newline=""))) == list(rows)


def test_the_gradient_of_the_labels_is_that_of_the_softmax(root):
    config = configure(root, "tent", *RIM_AND_CUP, "diagnostics.empirical_gradient=true")
    ((_, (_, rows), _),) = run(config)
    assert all(-1 <= float(row["cosine_empirical"]) <= 1 for row in rows)


def test_a_checkpoint_says_what_its_logits_stand_for_and_refuses_the_other(root, tmp_path):
    (path,) = root.glob("source_models/*/model.ckpt")
    stored = read_checkpoint(path)
    assert stored.activation == "softmax"
    exclusive = configure(root, "tent", *RIM_AND_CUP, f"checkpoint={path}")
    source = load_checkpoint(path, exclusive)
    assert source.model.activation == "softmax"
    assert source.model(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)
    overlapping = configure(root, "tent", RIM_AND_CUP[0], f"checkpoint={path}")
    with pytest.raises(
        UserError, match=r"exclude each other \(softmax\), but data.exclusive=false: use data.exclusive=true"
    ):
        load_checkpoint(path, overlapping)
    other = tmp_path / "sigmoid.ckpt"
    content = torch.load(path, weights_only=True)
    torch.save({key: value for key, value in content.items() if key != "activation"}, other)
    with pytest.raises(UserError, match="wrong shapes"):
        load_checkpoint(other, exclusive)  # three channels cannot be two classes on their own


def test_without_it_a_cell_is_the_one_that_it_was(root):
    plain, said = (configure(root, "tent", RIM_AND_CUP[0], *more) for more in ((), ("data.exclusive=false",)))
    assert "exclusive" not in Cell.all_of(plain)[0].identity()["data"]
    assert Cell.all_of(plain)[0].identity() == Cell.all_of(said)[0].identity()
    exclusive = configure(root, "tent", *RIM_AND_CUP)
    assert Cell.all_of(exclusive)[0].identity()["data"]["exclusive"] is True


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("data.exclusive=true",), "disc and cup of data.classes share the mask value 2: list it in one"),
        ((*RIM_AND_CUP, "protocol.threshold=0.4"), "protocol.threshold=0.4 is for classes on their own"),
    ],
)
def test_what_classes_that_exclude_each_other_cannot_have_is_refused(tmp_path, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        configure(tmp_path, "tent", *overrides)


@pytest.mark.parametrize("network", ["unet", "resunet34"])
def test_the_entropy_of_each_class_on_its_own_is_refused_before_any_work(tmp_path, network):
    own = ("model=resunet34", "model.encoder=resnet34", "model.decoder_channels=null")
    overrides = ("method.entropy_form=binary", *(own if network == "resunet34" else ()))
    config = configure(tmp_path, "tent", *RIM_AND_CUP, *overrides)
    with pytest.raises(UserError, match="entropy_form=binary takes every class on its own"):
        check_networks([config])
