"""The directions that papers report of the settings: a small network on discs as other cameras show them."""

import copy
from dataclasses import asdict, replace

import pytest
import torch
from test_stage import options_of

from discs import CAMERAS, camera
from sections import run_config
from small_networks import SmallNet, build, make_known
from tta_bench.data.held_out import tested, trained_on
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.bank import make_bank
from tta_bench.offline.access import Access, Grounds
from tta_bench.offline.base import SYSTEMS
from tta_bench.offline.continual import after_stages, pool_after
from tta_bench.ops.draws import ImageKey
from tta_bench.ops.preprocessing import PAPER
from tta_bench.ops.transfer import backward_transfer
from tta_bench.runtime.paths import shipped
from tta_bench.source.held_out import in_domain_dice
from tta_bench.source.train import source_model

pytestmark = pytest.mark.slow
COUNT, TRAINED = 48, 32
"""Images of each domain, and those of them that may be learnt from; the others are tested on."""


@pytest.fixture(scope="module")
def domains():
    return {name: camera(name, COUNT) for name in CAMERAS}


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


STAGES = {"A": "A", "again": "A", "C": "C"}
"""Stage -> the centre that it is of."""


def test_a_pool_grows_where_images_are_new_and_forgets_less_than_one_model(monkeypatch, tmp_path):
    stages, cpu = [*STAGES], torch.device("cpu")
    domains = {name: camera(name, 2 * COUNT, of) for name, of in STAGES.items()}
    quick = {**shipped("training/quick"), "branch_weights": shipped("shared/branch_weights")}
    shape = {
        "data": {**shipped("data/synthetic"), "image_size": 64},
        "model": {"name": make_known(monkeypatch)},
        "training": quick | {"epochs": 20, "min_steps": 0, "learning_rate": 3e-3, "holdout": 0.0},
        "protocol": {**shipped("shared/network_size"), **shipped("protocol/online"), "evaluation": "held_out"},
        "device": "cpu",
        "results_root": tmp_path,
        "target": stages,
    }

    def configured(name, count):
        options = asdict(replace(options_of(name), labels="all", **SHORT))
        return run_config(**shape, source=stages[count - 1], stages=stages[:count], adapt={"name": name, **options})

    (config,) = configured("fta", 1).of_each_source()
    first = source_model(config, trained_on(config, domains["A"]), tmp_path)

    def scores(name, count):
        """Of every domain after ``count`` stages."""
        models, routes = after_stages(configured(name, count), first, domains, 0, "", cpu)
        found = []
        for stage, domain in domains.items():
            of_images = []
            for k in tested(stage, len(domain), "held_out"):
                model = models[stage] if routes is None else routes.models[routes.taken[stage, k][0]]
                of_images += in_domain_dice(model.model, domain, [k], cpu).values()
            found.append(sum(of_images) / len(of_images))
        return found

    sizes = [len(pool_after(configured("odex", count), first, domains, 0, "", cpu)) for count in (1, 2, 3)]
    lines = {name: [scores(name, count) for count in (1, 2, 3)] for name in ("odex", "fta")}
    backward = {name: backward_transfer(torch.tensor(each)) for name, each in lines.items()}
    assert sizes == [1, 1, 2]
    assert backward["odex"] > backward["fta"] + 10
