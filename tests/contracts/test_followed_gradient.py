"""The gradient of the labels is taken in the coordinates of the gradient that a method follows, or not at all."""

from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from settings import options_of

from tta_bench.adaptation.empirical_gradient import COLUMN, EmpiricalGradient
from tta_bench.data.domain import Domain
from tta_bench.data.streams import ImageBatch, StreamImage
from tta_bench.methods.base import METHODS, Protocol
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import ImageKey

FOLLOWING_NONE = {"alpha_bn", "bn_only", "diga", "dua", "fda", "medbn", "no_adapt", "vptta"}
"""Of the network's parameters: a prompt has a gradient, but none that a gradient of the parameters compares with."""

HERE = {"perturbation": 0.0, "rho": 0.0, "alpha": 0.0}
"""Options under which a method follows the gradient at the state itself, not at the end of a step ahead."""

VARIANTS = [
    *[(name, {}) for name in METHODS.names()],
    ("sar", {"skip_layers": ["up."], "margin": float("inf")}),
    ("detta", {"running_momentum": 0.1}),
    ("domain_adaptor", {"source_weight": 0.8}),
    ("memo", {"parameters": "affine"}),
    ("vptta", {"prompt_size": 64}),  # more scalars than the network has affine ones
    ("dltta", {"compared_network": "source"}),
]


class Observed:
    """A method under the callback, as the trainer calls both.

    Attributes:
        passes: how often an encoder ran.
    """

    def __init__(self, small_net, images, name, overrides, protocol):
        kind = METHODS.get(name)
        names = {field.name for field in fields(kind.Options)}
        here = {key: value for key, value in HERE.items() if key in names}
        options = options_of(name, **{**here, **overrides})
        self.network = AdaptableNetwork(small_net, kind.branches(options))
        self.method = kind(self.network, options, protocol)
        self.images, self.labels = images, images[:, :2] > 0.5
        masks = (self.labels.numpy() * [[[[1]], [[2]]]]).sum(axis=1).astype(np.uint8)
        classes = {"first": (1, 3), "second": (2, 3)}
        names = tuple(map(str, range(len(images))))
        domain = Domain("all", names, np.empty((len(images), 0)), masks, classes, "")
        self.observer = EmpiricalGradient(self.method, {"all": domain})
        self.passes = 0
        encode = self.network.model.encode

        def counted(x):
            self.passes += 1
            return encode(x)

        self.network.model.encode = counted

    def follow_the_labels(self, monkeypatch):
        """Let the method do all it does, but with the loss of the labels in the place of its own."""
        gradient = self.method.gradient

        def supervised(objective, theta, statistics=None):
            def loss(network):
                objective(network)  # a method may take what it needs beside the loss
                rows = slice(self.place, self.place + len(network.theta))
                labels = self.labels[rows].to(self.images)
                return F.binary_cross_entropy_with_logits(network(self.images[rows]), labels, reduction="none").mean(
                    dim=(1, 2, 3)
                )

            return gradient(loss, theta, statistics)

        monkeypatch.setitem(vars(self.method), "gradient", supervised)

    def step(self, place, streams=2, watched=True):
        """The logits of images ``place, place + 1, ...``, one of each stream, and the column if there is one."""
        self.place = place
        places = [StreamImage("all", index, index) for index in range(place, place + streams)]
        keys = [ImageKey(0, domain, f"{place}") for domain in "BC"[:streams]]
        batch = ImageBatch(self.images[place : place + streams], keys, places)
        if watched:
            self.observer.on_test_batch_start(None, None, batch, 0)
        result = self.method.step(batch.images, batch.keys)
        if watched:
            self.observer.on_test_batch_end(None, None, result, batch, 0)
        return result.logits, result.diagnostics.get(COLUMN)


@pytest.mark.parametrize("episodic", [False, True], ids=["online", "episodic"])
@pytest.mark.parametrize(("name", "overrides"), VARIANTS)
def test_where_both_losses_are_the_same_the_cosine_is_one_else_there_is_no_column_and_no_pass(
    small_net, images, monkeypatch, name, overrides, episodic
):
    observed, alone = (Observed(small_net, images, name, overrides, Protocol(episodic=episodic)) for _ in range(2))
    if name not in FOLLOWING_NONE:
        for each in (observed, alone):
            each.follow_the_labels(monkeypatch)
    for each in (observed, alone):
        each.method.start(2)
    for place in (0, 2):
        logits, cosines = observed.step(place)
        expected, _ = alone.step(place, watched=False)
        assert torch.equal(logits, expected)
        assert cosines == (None if name in FOLLOWING_NONE else pytest.approx([1, 1], abs=1e-6))
    assert observed.network.forwards == alone.network.forwards
    assert observed.method.backwards == alone.method.backwards
    assert (observed.passes > alone.passes) == (name not in FOLLOWING_NONE)


@pytest.mark.parametrize("name", sorted(set(METHODS.names()) - FOLLOWING_NONE))
def test_the_cosine_of_a_method_s_own_loss_is_another_one_and_that_of_a_skipped_update_is_nan(small_net, images, name):
    faulty = images[:4].clone()
    faulty[3] = float("nan")
    observed = Observed(small_net, faulty, name, {}, Protocol())
    observed.method.start(2)
    _, cosines = observed.step(0)
    assert all(-1 <= cosine < 0.999 for cosine in cosines)
    _, (good, bad) = observed.step(2)
    assert -1 <= good <= 1
    assert bad != bad
