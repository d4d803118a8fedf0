"""Every method on networks of one channel: it is what it is on the same network of three that are shown the same."""

import copy

import pytest
import torch
from runs import largest_difference, one, run
from settings import options_of

from small_networks import BRANCHES, SmallNet, build, source_images
from tta_bench.methods.base import METHODS, Protocol
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.bank import make_bank
from tta_bench.models.build import show_grey

NAMES = METHODS.names()


@pytest.fixture(scope="module")
def models():
    """The same function of grey images, of three channels and of one, with a bank of grey images."""
    colours = build(SmallNet, branches=BRANCHES, seed=4)
    grey = copy.deepcopy(colours)
    show_grey(grey)
    bank = source_images()[:, :1]
    colours.bank, grey.bank = (make_bank(each, 2.2, "amplitudes_only") for each in (bank.expand(-1, 3, -1, -1), bank))
    return {3: colours, 1: grey}


def made(models, channels, name):
    options = options_of(name)
    kind = METHODS.get(name)
    return kind(AdaptableNetwork(models[channels], kind.branches(options)), options, Protocol())


@pytest.mark.parametrize("name", NAMES)
def test_a_method_adapts_a_network_of_one_channel_stream_by_stream(models, images, name):
    streams = {"B": images[:3, :1], "C": images[3:5, :1]}
    method = made(models, 1, name)
    together = run(method, streams)
    assert all(logits.isfinite().all() for logits in together.logits.values())
    assert method.skipped == 0
    if METHODS.get(name).card.needs_gradients and not method.protocol.episodic:
        assert not torch.equal(method.theta(2), method.source_theta.expand(2, -1))
    alone = run(made(models, 1, name), one(streams))
    for place, logits in alone.logits.items():
        torch.testing.assert_close(together.logits[place], logits, rtol=0, atol=1e-9)
    # Random draws, prompts and the first convolution are of each channel by itself.
    affine_alone = method.source_theta.shape == method.network.source_theta.shape
    if affine_alone and not METHODS.get(name).is_stochastic(method.options):
        thrice = {domain: grey.expand(-1, 3, -1, -1) for domain, grey in one(streams).items()}
        assert largest_difference(run(made(models, 3, name), thrice), alone) < 1e-9
