"""The directions that the papers report, on synthetic centres with a small source model."""

import copy
from dataclasses import replace

import pytest
import torch
from test_stage import options_of

from tiny_cells import configure
from tta_bench.data.prepare import prepare
from tta_bench.models.checkpoint import load_checkpoint
from tta_bench.offline.access import Access, Grounds
from tta_bench.offline.base import SYSTEMS
from tta_bench.source.held_out import in_domain_dice, split
from tta_bench.source.train import source_model

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
COUNT = 40
"""Images of each centre."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A source model of centre A, and its domains."""
    root = tmp_path_factory.mktemp("few_labels")
    config = configure(
        root,
        "source=A",
        "target=B,D",
        f"data.limit={COUNT}",
        "training.epochs=20",
        "training.min_steps=160",
        "training.batch_size=8",
        "model.branches=[]",
        "training.holdout=0.2",
    )
    domains = prepare(config.data, ("A", "B", "D"), root / "data", progress=False)
    return config, source_model(config, domains["A"], root), domains


def mean(classes):
    return sum(classes.values()) / len(classes)


def adapted(world, name, target, **changes):
    """A system after its last epoch, and its mean Dice on the target's second half and the source's held-out images."""
    config, source, domains = world
    train, held_out = split(COUNT, config.training.holdout, config.training.seed)
    kind, options = SYSTEMS.get(name), replace(options_of(name), **changes)
    labels = getattr(options, "labels", 0)
    model = load_checkpoint(source.path, config).model
    grounds = Grounds(
        domains[target], range(COUNT // 2), labels, domains["A"], model.preprocessing, 0, train, source.path
    )
    system = kind(copy.deepcopy(model), Access(kind.card, grounds), options, 0)
    for number in range(system.epochs):
        system.epoch(number)
    scores = [
        mean(in_domain_dice(each, domains[name], images, CPU))
        for each in (model, system.adapted())
        for name, images in ((target, range(COUNT // 2, COUNT)), ("A", held_out))
    ]
    print(name, target, changes, [round(score, 2) for score in scores])
    return system, *scores


def test_mmtl_keeps_the_source_where_fta_forgets_it(world):
    short = {"labels": 8, "epochs": 20, "steps": 5, "batch_size": 8}
    _, before, source, by_all, source_of_all = adapted(world, "fta", "D", **short)
    _, _, _, by_mmtl, source_of_mmtl = adapted(world, "mmtl", "D", **short)
    assert source - source_of_mmtl <= 5
    assert source_of_mmtl - source_of_all >= 15
    assert by_mmtl >= before + 30
    assert by_mmtl >= by_all - 3


def test_aiva_draws_matched_clusters_nearer_than_its_control_does(world):
    short = {"clusters": 6, "epochs": 6, "batch_size": 10}
    (system, *_, dice, _), (control, *_, by_control, _) = (
        adapted(world, "aiva", "B", weight=weight, **short) for weight in (1.0, 0.0)
    )
    distances = [each.cluster(99) for each in (system, control)]
    print(distances)
    assert distances[0] < distances[1]
    assert dice >= by_control - 1
