"""Loading a source model takes the time of its weights: nothing is drawn that they overwrite, or read a second time."""

from functools import partial

import pytest
import torch
from checkpoints import run_config, write

import tta_bench.models.checkpoint.load as load
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.networks.unet import UNet
from tta_bench.models.weights import Unfilled


@pytest.mark.parametrize(
    "build",
    [partial(ResUNet, 2, branches=["rotation"]), *(partial(UNet, name, 2) for name in ("resnet18", "tu-test_resnet"))],
    ids=["resunet34", "resnet18", "timm"],
)
def test_no_parameter_is_drawn_that_is_overwritten(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        with Unfilled():
            network = build()
        assert torch.equal(torch.get_rng_state(), before)
        filled = build()
    assert {name: value.shape for name, value in network.state_dict().items()} == {
        name: value.shape for name, value in filled.state_dict().items()
    }
    network.load_state_dict(filled.state_dict())
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network.eval()(images), filled.eval()(images))


def test_a_file_is_read_once_while_it_stays_as_it_is_and_every_model_has_weights_of_its_own(tmp_path, monkeypatch):
    read, files = load.read_torch_file, []
    monkeypatch.setattr(load, "read_torch_file", lambda path, **how: files.append(path) or read(path, **how))
    config = run_config()
    path = write(tmp_path / "model.ckpt", config)
    first, second = (load.load_checkpoint(path, config).model.state_dict() for _ in range(2))
    assert files == [path]
    kept = {name: value.clone() for name, value in second.items()}
    for value in first.values():
        value.zero_()
    third = load.load_checkpoint(path, config).model.state_dict()
    assert all(torch.equal(kept[name], each[name]) for each in (second, third) for name in kept)
    write(path, config, state={name: 2 * value for name, value in kept.items()})
    assert torch.equal(load.load_checkpoint(path, config).model.state_dict()["head.0.bias"], 2 * kept["head.0.bias"])
    assert files == [path] * 2
