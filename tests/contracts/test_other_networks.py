"""Methods on networks whose layers have statistics of their own: they work, stream by stream, or say why not."""

import copy
from itertools import cycle

import pytest
import torch
from runs import branches_of, largest_difference, make, one, run
from timm.layers import LayerNorm2d
from torch import nn

from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.networks.unet import UNet


def with_layers(model, kinds):
    """A copy in which these kinds of layer, None for none, take turns in the place of BatchNorm."""
    model = copy.deepcopy(model)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    for name, kind in zip(names, cycle(kinds), strict=False):
        if kind is not None:
            model.set_submodule(name, kind(model.get_submodule(name).num_features).double())
    return model.eval()


def group_norm(channels):
    return nn.GroupNorm(4, channels)


@pytest.fixture(scope="module")
def models(small_net):
    """Without any BatchNorm; with layers of each kind; with tokens in the encoder and BatchNorm in the decoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = UNet("mit_b0", 2, decoder_channels=(16, 16, 8, 8, 8)).double().eval()
    return {
        "GroupNorm": with_layers(small_net, [group_norm]),
        "mixed": with_layers(small_net, [None, LayerNorm2d, group_norm]),
        "mit_b0": transformer,
    }


CASES = [(network, name) for network in ("GroupNorm", "mixed") for name in METHODS.names()] + [
    ("mit_b0", name) for name in ("grata", "tent", "sar", "domain_adaptor", "dua")
]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_method_runs_stream_by_stream_or_is_refused(models, images, kind, name):
    network = AdaptableNetwork(models[kind], branches_of(name))
    if METHODS.get(name).card.needs_batch_norm and kind == "GroupNorm":
        with pytest.raises(UserError, match="statistics of BatchNorm layers, and this network has none"):
            make(name, network)
        return
    streams = {"B": images[:2], "C": images[2:3]}
    together = run(make(name, network), streams)
    assert all(torch.isfinite(logits).all() for logits in together.logits.values())
    alone = run(make(name, network), one(streams))
    for place, logits in alone.logits.items():
        torch.testing.assert_close(together.logits[place], logits, rtol=0, atol=1e-7)
    if METHODS.get(name).card.needs_gradients:
        control = run(make(name, network, learning_rate=0.0), one(streams))
        assert largest_difference(control, alone) > 1e-7
