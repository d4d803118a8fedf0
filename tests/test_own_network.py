"""A network of a plug-in, chosen by name: trained, stored, read again, adapted, and followed to its code."""

import importlib
import sys

import pytest

from tta_bench.adaptation.provenance import code_of
from tta_bench.cell import Cell, run
from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.models.checkpoint import load_checkpoint, read_checkpoint
from tta_bench.models.segmentation import NETWORKS
from tta_bench.schema import ModelConfig

FILE = '''
"""Five strided convolutions down, one interpolation up."""

import torch.nn.functional as F
from torch import nn

from tta_bench.models.segmentation import SegmentationModel, register_network


@register_network("tiny")
class Tiny(SegmentationModel):
    def __init__(self, width, classes, branches):
        super().__init__(width, branches)
        self.encoder = nn.Sequential(*(self.block(3 if i == 0 else width, width) for i in range(5)))
        self.head = nn.Conv2d(width, classes, 1)

    @staticmethod
    def block(inputs, outputs):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU())

    @classmethod
    def configured(cls, config, classes, encoder_weights):
        return cls(config.options["width"], classes, config.branches)

    def encode(self, images):
        return [self.encoder(images)]

    def decode(self, features):
        return F.interpolate(features[-1], scale_factor=32)

    def classify(self, head_input):
        return self.head(head_input)
'''


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The network, for as long as a test runs."""
    NETWORKS.names()
    monkeypatch.setattr(NETWORKS, "_items", dict(NETWORKS._items))
    (tmp_path / "tiny_network.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tiny_network", raising=False)
    return importlib.import_module("tiny_network")


def test_a_network_of_one_file_is_trained_stored_and_adapted(tiny, tmp_path):
    words = ["+method=tent", "source=D", "target=A", "data.image_size=64", "data.limit=3"]
    (config,) = check([*words, "training.epochs=1", "training.min_steps=0", f"results_root={tmp_path}/results"])
    model = ModelConfig(name="tiny", options={"width": 6})
    config = config.model_copy(update={"model": model})
    list(run(config))
    (cell,) = Cell.all_of(config)
    assert cell.finished() is not None
    assert "tiny_network" in code_of(config)["code_modules"]
    (path,) = tmp_path.glob("results/source_models/*/model.ckpt")
    assert read_checkpoint(path).architecture == model.model_dump(mode="json")
    assert isinstance(load_checkpoint(path, config).model, tiny.Tiny)
    wider = config.model_copy(update={"model": ModelConfig(name="tiny", options={"width": 8})})
    with pytest.raises(UserError, match=r"its width is 6, but model.options.width=8: use model.options.width=6"):
        load_checkpoint(path, wider)


def test_options_are_of_plug_ins_alone_and_count_only_where_there_are_any():
    for section, sentence in (
        ({"encoder": "resnet18", "options": {"width": 6}}, "model=unet has no options"),
        ({}, "'model.encoder' is missing"),
    ):
        with pytest.raises(UserError, match=sentence):
            NETWORKS.get("unet").check(ModelConfig(name="unet", **section))
    assert "options" not in ModelConfig(name="unet", encoder="resnet18").model_dump()
