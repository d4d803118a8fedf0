"""Images in, logits out: the runner asks for no labels, and its observers look on in the order promised."""

import copy

import numpy as np
import pytorch_lightning as pl
import torch

from tta_bench.adaptation.runner import adapt_streams
from tta_bench.adaptation.scenarios.base import scenario_of
from tta_bench.data.domain import Domain
from tta_bench.data.streams import LockstepGroups, passes
from tta_bench.methods.base import METHODS
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import ImageKey

COUNTS = {"A": 3, "B": 2}


class Unlabelled(Domain):
    """Whoever asks for a label fails."""

    def label(self, index):
        raise AssertionError("the labels were asked for")


class Watching(pl.Callback):
    """Writes down what it is shown."""

    def __init__(self, method):
        self.method = method
        self.before = []
        self.after = []

    def on_test_epoch_start(self, trainer, pl_module):
        self.started = self.method.theta(1).clone()

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.before.append(self.method.theta(1).clone())

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.after.append((batch.places, outputs.logits, self.method.theta(1).clone()))


def test_it_gives_the_logits_of_the_method_alone_and_no_label_is_asked_for(small_net):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    domains = {
        name: Unlabelled(name, tuple(map(str, range(n))), pixels[:n], None, {"disc": (1,)}, "")
        for name, n in COUNTS.items()
    }
    groups = LockstepGroups(scenario_of("target").streams(passes(domains, list(COUNTS))))

    def made():
        return METHODS.get("tent")(AdaptableNetwork(copy.deepcopy(small_net).float()))

    method, alone = made(), made()
    watching = Watching(method)
    adapt_streams(method, domains, groups, seeds=[5], observers=[watching])
    assert [place.domain for (place,), _, _ in watching.after] == ["A", "A", "A", "B", "B"]
    for number, ((place,), logits, theta) in enumerate(watching.after):
        if place.index == 0:
            alone.start(1)
        assert torch.equal(watching.before[number], alone.theta(1)), "the state before the update"
        expected = alone.step(
            domains[place.domain].image(place.index)[None], [ImageKey(5, place.domain, f"{place.index}")]
        )
        assert torch.equal(logits, expected.logits)
        assert torch.equal(theta, alone.theta(1))
    assert torch.equal(watching.started, watching.before[3]), "an epoch starts after the method"
