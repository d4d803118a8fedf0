"""What threads draw ahead is what a method would draw itself, and nothing that takes long is drawn any other way."""

import pytest
import torch
from runs import NAMES, assert_equal, keys_of, make, run

from tta_bench.data.prefetching import Prefetcher
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import BatchStatistics
from tta_bench.objectives.base import OBJECTIVES, BoundNetwork, bind_objective, branches_of
from tta_bench.ops.draws import Draws, ImageKey

DRAWN_AHEAD = {"cotta", "detta", "dua", "grata"}
"""Methods that draw as many numbers as the image has pixels or the network parameters, or many short ones."""


def settled(prefetcher, keys):
    """Keys for which everything that is expected has been drawn."""
    ahead = prefetcher.begin(keys)
    ahead.settle()
    return ahead


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS.get(name).card.stochastic])
def test_a_method_cannot_tell_who_drew(networks, streams, usual, name, monkeypatch):
    expected, batches = usual(name), []
    with Prefetcher() as prefetcher:

        def ahead(*args):
            batches.append(settled(prefetcher, keys_of(*args)))
            return batches[-1]

        monkeypatch.setitem(run.__globals__, "keys_of", ahead)
        found = run(make(name, networks(name)), streams)
    assert_equal(expected, found)
    assert repr(found.diagnostics) == repr(expected.diagnostics)
    first, *others = batches
    assert first.unexpected or name not in DRAWN_AHEAD
    assert not any(each.unexpected for each in others), "what was asked for once is there the next time"


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_an_objective_cannot_tell_either(small_net, images, name):
    objective = bind_objective(name, **vars(default_options("grata")))
    network = AdaptableNetwork(small_net, branches_of([name]))
    bound = BoundNetwork(network, network.source_theta.repeat(2, 1), BatchStatistics())

    def losses(keys):
        return objective(bound, images[:2], Draws(keys))

    with Prefetcher() as prefetcher, torch.no_grad():
        for k in range(3):
            keys = [ImageKey(0, domain, f"image{k}") for domain in "BC"]
            ahead = settled(prefetcher, keys)
            assert torch.equal(losses(ahead), losses(keys))
            assert torch.equal(losses(ahead), losses(keys)), "asked again"
            assert not (k and ahead.unexpected)
