"""The directions that papers report of the settings: a small network on discs as other cameras show them."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_stage import options_of

from discs import discs
from small_networks import SmallNet, build
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.bank import make_bank
from tta_bench.offline.access import Access, Grounds
from tta_bench.offline.base import SYSTEMS
from tta_bench.ops.draws import ImageKey
from tta_bench.ops.preprocessing import PAPER
from tta_bench.source.held_out import in_domain_dice

pytestmark = pytest.mark.slow
COUNT, TRAINED = 48, 32
"""Images of each domain, and those of them that may be learnt from; the others are tested on."""


def camera(name, gamma, contrast, brightness, bias):
    """Discs as a centre of its own shows them: a gamma curve, a contrast, an offset and a ramp of light."""
    domain = discs(name, COUNT)
    light = bias * np.linspace(-0.5, 0.5, domain.side)[None, None, :, None]
    images = contrast * (domain.images / 255.0) ** gamma + brightness + light
    return replace(domain, images=(255 * images.clip(0, 1)).astype(np.uint8))


CAMERAS = {"A": (1, 1, 0, 0), "B": (1.3, 0.85, 0.05, 0.1), "C": (0.5, 0.65, 0.25, 0.35), "D": (2.2, 0.5, 0, 0.5)}
"""No change, a subtle one, and two severe ones."""


@pytest.fixture(scope="module")
def domains():
    return {name: camera(name, *values) for name, values in CAMERAS.items()}


def adapted(name, model, domains, target, labels=0, **changes):
    """A system after its last epoch."""
    kind, options = SYSTEMS.get(name), replace(options_of(name), **changes)
    usable = range(TRAINED)
    grounds = Grounds(domains[target], usable, labels, domains["A"], PAPER, 0, usable)
    system = kind(copy.deepcopy(model), Access(kind.card, grounds), options, 0)
    for number in range(system.epochs):
        system.epoch(number)
    return system


def dice(model, domain):
    """Mean over the classes on images that nothing has learnt from, in [0, 1]."""
    found = in_domain_dice(model, domain, range(TRAINED, COUNT), torch.device("cpu"))
    return sum(found.values()) / len(found) / 100


@pytest.fixture(scope="module")
def source(domains):
    torch.manual_seed(0)
    model = build(SmallNet).float()
    training = {"epochs": 16, "steps": 10, "batch_size": 8, "learning_rate": 3e-3}
    model = adapted("fta", model, domains, "A", TRAINED, **training).adapted().eval()
    return model


SHORT = {"epochs": 10, "steps": 6, "batch_size": 8}


@pytest.mark.parametrize("target", ["C", "D"])
def test_mmtl_keeps_the_source_where_fta_forgets_it(source, domains, target):
    models = {name: adapted(name, source, domains, target, 8, **SHORT).adapted().eval() for name in ("fta", "mmtl")}
    at_home = {name: dice(model, domains["A"]) for name, model in models.items()}
    abroad = {name: dice(model, domains[target]) for name, model in models.items()}
    assert dice(source, domains["A"]) - at_home["mmtl"] <= 0.05
    assert at_home["mmtl"] - at_home["fta"] >= 0.15
    assert abroad["mmtl"] >= dice(source, domains[target]) + 0.3


def test_aiva_draws_matched_clusters_nearer_than_its_control_does(source, domains):
    short = {"clusters": 6, "epochs": 4, "batch_size": 16, "perplexity": 10.0}
    distances, scores = [], []
    for weight in (1.0, 0.0):
        system = adapted("aiva", source, domains, "B", weight=weight, **short)
        distances.append(system.cluster(99))
        scores.append(dice(system.adapted().eval(), domains["B"]))
    assert distances[0] < distances[1]
    assert scores[0] >= scores[1] - 0.01


def test_amplitudes_of_donors_help_where_the_shift_is_severe(source, domains):
    images = {k: torch.stack([d.image(i) for i in range(COUNT)]) for k, d in domains.items()}
    before = {name: dice(source, domains[name]) for name in "BCD"}
    after = []
    for radius in (0.96, 1.92):  # the mean alone, and nine coefficients
        net = copy.copy(source)
        net.bank = make_bank(images["A"][:TRAINED], radius, "amplitudes_only")
        method = METHODS.get("fda")(AdaptableNetwork(net), default_options("fda", radius=radius, choice="random"), None)
        method.start(1)
        found = {}
        after.append(found)
        for name in "BCD":
            scores = []
            for k in range(TRAINED, COUNT):
                logits = method.step(images[name][k : k + 1], [ImageKey(0, name, f"{k}")]).logits[0]
                truth, seen = domains[name].label(k), logits > 0
                scores.append((2 * (truth & seen).sum((1, 2)) / (truth.sum((1, 2)) + seen.sum((1, 2)))).mean())
            found[name] = round(float(torch.stack(scores).mean()), 3)
    assert after[1]["C"] >= before["C"] + 0.2
    for name in "CD":
        assert after[1][name] > after[0][name] > before[name]
    assert after[1]["B"] >= before["B"] - 0.06
