"""The one callback drives any method, in the loops and on the LightningModule of anybody."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tta_bench.adaptation.callback import TTACallback
from tta_bench.adapter import Adapter
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import ImageKey


class InDict(nn.Module):
    """A network with an output as torchvision's have it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return {"out": self.network(images), "aux": None}


class Foreign(pl.LightningModule):
    """Somebody's own: a network, deep inside, and steps that know nothing of this package."""

    def __init__(self, network, fail=False):
        super().__init__()
        self.parts = nn.ModuleDict({"net": InDict(network)})
        self.fail = fail
        self.adapted = []

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        images, labels = batch
        logits = self.parts["net"](images)["out"]
        assert not logits.requires_grad
        self.adapted.append(logits)
        if self.fail:
            raise ArithmeticError("in the middle of a loop")
        self.log("error", ((logits > 0) != labels).double().mean())

    predict_step = validation_step = test_step

    def log(self, *args):
        if not self.trainer.predicting:
            super().log(*args)


@pytest.fixture
def foreign(small_net):
    return Foreign(small_net)


def trainer(*callbacks, **options):
    return pl.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"inference_mode": False, "devices": 1, **options},
    )


def run(module, tta, *loaders, loop="test"):
    module.adapted.clear()
    getattr(trainer(tta), loop)(module, list(loaders), **({} if loop == "predict" else {"verbose": False}))
    return torch.cat(module.adapted)


def loader(images, batch_size=1, labels=None):
    return DataLoader(TensorDataset(images, images[:, :2] > 0.5 if labels is None else labels), batch_size)


@pytest.mark.parametrize("loop", ["test", "predict", "validate"])
def test_the_module_s_own_step_sees_the_adapted_network_in_every_loop(foreign, images, loop):
    network = foreign.parts["net"]
    before = {key: value.clone() for key, value in foreign.state_dict().items()}
    tta = TTACallback("tent", network="parts.net", learning_rate=1e-3)
    adapted = run(foreign, tta, loader(images[:3], 2), loop=loop)
    assert torch.equal(adapted, Adapter(network, "tent", learning_rate=1e-3)(images[:3]))
    assert not torch.equal(adapted[1:], Adapter(network, "bn_only")(images[1:3]))
    assert tta.adapter.diagnostics["lr"] == [1e-3]
    assert foreign.parts["net"] is network
    assert all(torch.equal(value, before[key]) for key, value in foreign.state_dict().items())


def test_other_labels_give_the_same_logits(foreign, images):
    tta = TTACallback("grata", network="parts.net")
    first = run(foreign, tta, loader(images[:2]))
    assert torch.equal(first, run(foreign, tta, loader(images[:2], labels=torch.ones(2, 2, 64, 64) > 0)))


def test_the_state_starts_afresh_with_every_run_and_every_dataloader(foreign, images):
    tta = TTACallback("tent", network="parts.net")
    parts = images[:2], images[2:4]
    once = run(foreign, tta, *map(loader, parts))
    assert torch.equal(once, torch.cat([Adapter(foreign.parts["net"], "tent")(part) for part in parts]))
    assert torch.equal(run(foreign, tta, *map(loader, parts)), once)


def test_the_network_is_back_after_an_exception(small_net, images):
    module = Foreign(small_net, fail=True)
    network = module.parts["net"]
    with pytest.raises(ArithmeticError):
        run(module, TTACallback("tent", network="parts.net"), loader(images[:1]))
    assert module.parts["net"] is network


def test_a_given_method_is_driven_with_its_streams_side_by_side(foreign, small_net, images):
    def make():
        return METHODS.get("tent")(AdaptableNetwork(small_net), default_options("tent"))

    class Reading(Foreign):
        def test_step(self, batch, batch_idx):
            self.adapted.append(self.parts["net"](batch[0]))

    tta = TTACallback(make(), "parts.net", streams=2)
    adapted = run(Reading(small_net), tta, loader(images[:4], batch_size=2))
    for stream in range(2):
        method = make()
        method.start(1)
        steps = [method.step(image[None], [ImageKey(0, "", "")]).logits for image in images[stream:4:2]]
        torch.testing.assert_close(adapted[stream::2], torch.cat(steps), rtol=0, atol=1e-9)
    assert len(tta.result.diagnostics["lr"]) == 2
    with pytest.raises(UserError, match="give the dataloader batch_size=1"):
        run(Reading(small_net), TTACallback(make(), "parts.net"), loader(images[:2], batch_size=2))


def test_bad_circumstances_are_refused(foreign, images, monkeypatch):
    tta = TTACallback("tent", network="parts.net")
    with pytest.raises(UserError, match="inference_mode=False"):
        trainer(tta, inference_mode=True).test(foreign, loader(images[:1]), verbose=False)
    with pytest.raises(UserError, match=r"has no such module; did you mean 'parts\.net'"):
        run(foreign, TTACallback("tent", network="parts.nat"), loader(images[:1]))
    several = trainer(tta)
    monkeypatch.setattr(pl.Trainer, "world_size", 2)
    with pytest.raises(UserError, match="devices=1"):
        tta.on_test_start(several, foreign)
