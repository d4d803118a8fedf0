"""A pretext task is one file: a branch is trained for it and a method adapts by it, and nothing else knows its name."""

import importlib
import sys

import pytest
import torch

from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.pretext import PRETEXT_TASKS
from tta_bench.objectives.base import OBJECTIVES
from tta_bench.ops.draws import ImageKey
from tta_bench.source.train import source_model

FILE = '''
"""The mean colour of the image, from its bottleneck."""

import torch
from torch import nn

from tta_bench.objectives.base import register_pretext_task


def head(bottleneck_channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(bottleneck_channels, 3))


def errors(output, images):
    return (torch.sigmoid(output) - images.mean((2, 3))).square().mean(1)


def training_loss(branch, images):
    return errors(branch(images), images).mean()


@register_pretext_task("colour", head=head, training_loss=training_loss, stochastic=False)
def colour(network, images, draws):
    return errors(network.branch("colour", images), images)
'''


@pytest.fixture
def colour(tmp_path, monkeypatch):
    """The task, for as long as a test runs."""
    for registry in (PRETEXT_TASKS, OBJECTIVES):
        registry.names()
        monkeypatch.setattr(registry, "_items", dict(registry._items))
    (tmp_path / "colour.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "colour", raising=False)
    return importlib.import_module("colour")


@pytest.mark.parametrize("pair", [("colour", "entropy"), ("consistency", "colour")])
def test_grata_adapts_by_a_task_of_one_file(make_config, make_domain, tmp_path, colour, pair):
    config = make_config(epochs=1)
    config = config.model_copy(update={"model": config.model.model_copy(update={"branches": ("colour",)})})
    source = source_model(config, make_domain(), tmp_path)
    untrained = colour.head(512).state_dict()
    assert source.model.branches["colour"].state_dict().keys() == untrained.keys()

    grata = METHODS.get("grata")
    options = default_options("grata", pseudo=pair[0], auxiliary=pair[1])
    assert grata.branches(options) == ("colour",)
    method = grata(AdaptableNetwork(source.model, grata.branches(options)), options)
    method.start(1)
    before = method.state.theta.clone()
    method.step(torch.rand(1, 3, 64, 64), [ImageKey(0, "B", "image")])
    assert not torch.equal(method.state.theta, before)
