"""Networks and methods that cannot be used are refused before anything is prepared or trained."""

import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tta_bench.__main__ as program
import tta_bench.launch.network_check as network_check
from tta_bench.errors import UserError
from tta_bench.launch.network_check import check_networks, usable_model
from tta_bench.methods.options import default_options
from tta_bench.models import encoder_weights
from tta_bench.models.encoder import check_encoder
from tta_bench.models.segmentation import NETWORKS, SegmentationModel
from tta_bench.schema import ModelConfig

TINY = ("data.image_size=64", "data.limit=4", "training.epochs=1", "source=D", "target=A", "device=cpu")


@pytest.mark.parametrize(
    ("encoder", "sentence"),
    [
        ("tu-nonexistent", "unknown encoder model.encoder=tu-nonexistent"),
        ("tu-resnet180", "did you mean 'tu-resnet18'?"),
        ("tu-", "unknown encoder model.encoder=tu-: see the encoders of segmentation-models-pytorch"),
        ("tu-vit_tiny_patch16_224", "cannot be the encoder of a U-Net for images of 64 x 64 pixels"),
        ("tu-swin_tiny_patch4_window7_224", "Input height (64) doesn't match model (224)"),
        ("tu-resnet18.no_such_tag", "Invalid pretrained tag"),
    ],
)
def test_an_encoder_that_cannot_be_used_ends_in_one_sentence(monkeypatch, tmp_path, capsys, encoder, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tta_bench", "+method=tent", f"model.encoder={encoder}", *TINY])
    with pytest.raises(SystemExit) as left:
        program.main()
    errors = capsys.readouterr().err.splitlines()
    assert left.value.code == 2
    assert len(errors) == 1
    assert sentence in errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["resnet34", "tu-resnet18", "tu-resnet18.a1_in1k", "timm-regnetx_002"])
def test_names_of_either_library_are_known(name):
    check_encoder(name)


def config(method, size=64, **model):
    return SimpleNamespace(
        model=ModelConfig(name="unet", encoder="resnet18", decoder_channels=(8, 8, 8, 8, 8), **model),
        data=SimpleNamespace(image_size=size, classes={"disc": (1,)}, activation="sigmoid"),
        method={"name": method, **asdict(default_options(method))},
    )


def test_methods_that_cannot_work_on_a_network_are_told_together(monkeypatch):
    model = usable_model(config("tent").model, 1, 64)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(name, nn.GroupNorm(8, module.num_features))
    monkeypatch.setattr(network_check, "usable_model", lambda *_: model)
    network_check._faults.cache_clear()
    try:
        with pytest.raises(UserError) as refused:
            check_networks([config(name) for name in ("tent", "bn_only", "dua", "grata", "bn_only")])
    finally:
        network_check._faults.cache_clear()
    methods = [fault.split()[0] for fault in refused.value.faults]
    assert methods == ["method=bn_only", "method=dua"]


@pytest.fixture
def headless(monkeypatch):
    """A network without an encoder to choose, whose output is half as large as the image."""
    NETWORKS.names()
    monkeypatch.setattr(NETWORKS, "_items", dict(NETWORKS._items))

    @NETWORKS.register("headless")
    class Headless(SegmentationModel):
        def __init__(self):
            super().__init__(8)
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1))

        @classmethod
        def configured(cls, config, classes, encoder_weights):
            return cls()

        def encode(self, images):
            return [self.layers(images)]

        def decode(self, features):
            return features[-1]

        def classify(self, head_input):
            return head_input

    yield Headless
    network_check._faults.cache_clear()


def test_a_network_without_an_encoder_is_called_by_its_name(headless, monkeypatch):
    model = ModelConfig(name="headless")
    with pytest.raises(UserError) as refused:
        usable_model(model, 2, 64)
    assert refused.value.faults == (
        "model=headless cannot segment images of 64 x 64 pixels (ValueError: its output is of 32 x 32 pixels): "
        "mend it, choose another network, or another data.image_size",
    )
    monkeypatch.setattr(headless, "classify", lambda self, x: nn.functional.interpolate(x, scale_factor=2))
    asked = config("bn_only")
    asked.model, asked.data.classes = model, {"disc": (1,), "cup": (2,)}
    with pytest.raises(
        UserError, match=r"method=bn_only with model=headless: .* choose another method, or another network"
    ):
        check_networks([asked])


def test_too_few_source_images_start_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["-m", "+method=no_adapt", "source=A,D", "target=B", "data.image_size=64", "data.limit=2", "device=cpu"]
    monkeypatch.setattr(sys, "argv", ["tta_bench", *words])
    with pytest.raises(SystemExit) as left:
        program.main()
    first, second = capsys.readouterr().err.splitlines()
    assert left.value.code == 2
    assert first == (
        "error: source=A has 2 images, 1 of them held out: training needs at least 2; add images, raise data.limit or "
        "set training.holdout=0"
    )
    assert second.startswith("error: source=D has 2 images")
    assert list(tmp_path.iterdir()) == []


def test_a_sound_network_passes_and_the_random_state_stays():
    state = torch.get_rng_state()
    check_networks([config("tent"), config("no_adapt")])
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_that_cannot_be_downloaded_are_asked_for_once_before_the_first_run(monkeypatch, tmp_path, capsys):
    from segmentation_models_pytorch import encoders

    monkeypatch.chdir(tmp_path)
    build, attempts = encoders.get_encoder, []

    def offline(name, weights=None, **settings):
        if weights is None:
            return build(name, weights=None, **settings)
        attempts.append(name)
        raise OSError("offline")

    monkeypatch.setattr(encoders, "get_encoder", offline)
    monkeypatch.setattr(encoder_weights, "_downloads", {})
    words = ["-m", "+method=no_adapt,bn_only,tent", "model.encoder_weights=imagenet", *TINY]
    monkeypatch.setattr(sys, "argv", ["tta_bench", *words])
    with pytest.raises(SystemExit) as left:
        program.main()
    errors = capsys.readouterr().err.splitlines()
    assert (left.value.code, attempts, len(errors)) == (2, ["resnet18"], 1)
    assert "model.encoder_weights=PATH" in errors[0]
    assert not (tmp_path / "outputs" / "cells").exists()
