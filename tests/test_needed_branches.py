"""A method that needs an auxiliary branch is refused before any work if the source model will not have it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tta_bench.adaptation.compute import compute
from tta_bench.adaptation.sharing import Member
from tta_bench.cell import Cell
from tta_bench.data.domain import Domain
from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.build import build_model
from tta_bench.models.checkpoint import SourceModel
from tta_bench.models.pretext import PRETEXT_TASKS
from tta_bench.objectives.super_resolution import shrink

SENTENCE = "method=detta needs a source model with the branch denoising: train one with model.branches=[{}]"


@pytest.mark.parametrize("present", ["", "rotation,", "rotation,reconstruction,"])
def test_a_missing_branch_is_one_fault_with_its_remedy(present):
    with pytest.raises(UserError) as refused:
        check(["+method=detta", "source=D", f"model.branches=[{present.rstrip(',')}]"])
    assert refused.value.faults == (SENTENCE.format(present + "denoising"),)


def test_in_a_sweep_only_the_methods_that_need_it_are_refused():
    sweep = ["+method=tent,detta,grata", "source=D"]
    with pytest.raises(UserError) as refused:
        check(sweep)
    assert refused.value.faults == (SENTENCE.format("denoising"),)
    assert len(check([*sweep, "model.branches=[denoising]"])) == 3


@pytest.mark.parametrize("size", [64, 96, 160])
def test_an_image_of_which_half_is_too_small_for_super_resolution_is_refused(size):
    words = ["+method=grata", "source=D", f"data.image_size={size}"]
    assert check([*words, "model.branches=[rotation,denoising,reconstruction]"])
    with pytest.raises(UserError) as refused:
        check([*words, "method.auxiliary=super_resolution", "model.branches=[rotation,super_resolution]"])
    (sentence,) = refused.value.faults
    assert sentence.startswith(f"data.image_size={size} is too small or uneven for the branch super_resolution")
    assert "multiple of 64, at least 128" in sentence


@pytest.mark.parametrize("size", [128, 192])
def test_super_resolution_rebuilds_images_of_the_sizes_that_are_not_refused(size):
    (config,) = check(["+method=grata", "source=D", f"data.image_size={size}", "model.branches=[super_resolution]"])
    network = AdaptableNetwork(build_model(config.model, 2), config.model.branches)
    image = torch.rand(1, 3, size, size)
    rebuilt = network.branch("super_resolution", shrink(image, 2), network.source_theta[None])
    assert rebuilt.shape == image.shape


def one_image(name):
    image, mask = np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 64, 64), np.uint8)
    return Domain(name, ("only",), image, mask, {"disc": (1,)}, "")


def test_a_cell_adapts_the_affine_parameters_of_the_branch_too(small_net, monkeypatch):
    (config,) = check(["+method=detta", "source=D", "model.branches=[denoising]"])
    made = []

    def stop_before_the_first_image(method, *args, **kwargs):
        made.append(method)
        raise InterruptedError

    monkeypatch.setattr("tta_bench.adaptation.part.adapt_streams", stop_before_the_first_image)
    source = SourceModel(small_net, Path("D.ckpt"), "", "D", {"disc": (1,)}, 64, None, None, None)
    member = Member(config, 0, Cell(config, 0).folder())
    with pytest.raises(InterruptedError):
        compute([member], {name: one_image(name) for name in config.target}, source, torch.device("cpu"))
    branches = [name for name in made[0].network.layers if name.startswith("branches.")]
    assert len(branches) == 4
    assert all(name.startswith("branches.denoising.") for name in branches)


@pytest.mark.parametrize("name", METHODS.names())
def test_every_branch_that_a_method_needs_exists(name):
    assert set(METHODS.get(name).branches(default_options(name))) <= set(PRETEXT_TASKS.names())
