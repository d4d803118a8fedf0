"""The one callback drives any method on a LightningModule that knows nothing of this package."""

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from tta_bench.adaptation.callback import TTACallback
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import ImageKey


class Foreign(pl.LightningModule):
    """Somebody's own: a segmentation network, and a test step that scores what it is told to."""

    def __init__(self, network, tta):
        super().__init__()
        self.network = network
        self.tta = tta
        self.adapted = []

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        _, labels = batch
        logits = self.tta.result.logits
        self.adapted.append(logits)
        self.log("error", ((logits > 0) != labels).double().mean())


@pytest.fixture
def make(small_net):
    def make(name):
        options = default_options(name)
        kind = METHODS.get(name)
        return kind(AdaptableNetwork(small_net, kind.branches(options)), options)

    return make


def run(module, tta, *loaders):
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[tta],
        inference_mode=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.test(module, list(loaders), verbose=False)
    return torch.cat(module.adapted)


def loader(images, batch_size=1):
    return DataLoader(TensorDataset(images, images[:, :2] > 0.5), batch_size)


def expected(method, images, dataloader_idx=0):
    """The same by hand."""
    method.start(1)
    keys = [ImageKey(0, f"{dataloader_idx}", f"{k}.0") for k in range(len(images))]
    return torch.cat([method.step(images[k : k + 1], [key]).logits for k, key in enumerate(keys)])


@pytest.mark.parametrize("name", ["grata", "vptta", "diga"])
def test_a_foreign_module_gets_the_adapted_logits_and_stays_as_it_is(small_net, images, make, name):
    tta = TTACallback(make(name))
    before = {key: value.clone() for key, value in small_net.state_dict().items()}
    module = Foreign(small_net, tta)
    adapted = run(module, tta, loader(images[:3]))
    assert torch.equal(adapted, expected(make(name), images[:3]))
    assert 0 < module.trainer.callback_metrics["error"] < 1
    assert all(torch.equal(value, before[key]) for key, value in small_net.state_dict().items())


def test_the_state_starts_afresh_with_every_run_and_every_dataloader(small_net, images, make):
    tta = TTACallback(make("tent"))
    parts = images[:2], images[2:4]
    once = run(Foreign(small_net, tta), tta, *map(loader, parts))
    assert torch.equal(once, torch.cat([expected(make("tent"), part, k) for k, part in enumerate(parts)]))
    assert torch.equal(run(Foreign(small_net, tta), tta, *map(loader, parts)), once)


def test_each_image_of_a_batch_belongs_to_a_stream_of_its_own(small_net, images, make):
    tta = TTACallback(make("tent"), streams=2)
    adapted = run(Foreign(small_net, tta), tta, loader(images[:4], batch_size=2))
    for stream in range(2):
        torch.testing.assert_close(adapted[stream::2], expected(make("tent"), images[stream:4:2]), rtol=0, atol=1e-9)
    tta = TTACallback(make("tent"))
    with pytest.raises(UserError, match="give the test dataloader batch_size=1"):
        run(Foreign(small_net, tta), tta, loader(images[:2], batch_size=2))


def test_how_to_read_a_batch_can_be_told(small_net, images, make):
    tta = TTACallback(make("bn_only"), unpack=lambda batch, *_: (1 - batch[0], [ImageKey(1, "mine", "image")]))
    adapted = run(Foreign(small_net, tta), tta, loader(images[:1]))
    assert torch.equal(adapted, expected(make("bn_only"), 1 - images[:1]))


def test_inference_mode_is_refused(small_net, images, make):
    tta = TTACallback(make("tent"))
    trainer = pl.Trainer(accelerator="cpu", devices=1, callbacks=[tta], logger=False, enable_checkpointing=False)
    with pytest.raises(RuntimeError, match="inference_mode=False"):
        trainer.test(Foreign(small_net, tta), loader(images[:1]), verbose=False)
