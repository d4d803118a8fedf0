"""What other trainings are for, on images that are learnt in seconds: directions, no figures."""

from dataclasses import replace

import pytest
import torch

from discs import camera
from small_networks import make_known
from tta_bench.metrics.dice import dice_score
from tta_bench.offline.continual import joined
from tta_bench.ops.probabilities import divergences, masks, probabilities
from tta_bench.ops.stain import DRAWS, recoloured
from tta_bench.runtime.paths import shipped
from tta_bench.source.loss import branch_loss
from tta_bench.source.train import source_model

pytestmark = pytest.mark.slow

IMAGES = 40
"""30 of them to train on: four steps per epoch."""

GEOMETRY = {"augmentation": {"elastic": 0.0, "affine": 0.0, "brightness": 0.0, "noise": 0.0}, "learning_rate": 3e-3}
"""Training with flips alone: of other colours a network is told by nothing else."""

UNSEEN = 20
"""Images that no network was trained on, of each centre."""


@pytest.fixture
def train(make_config, make_domain, tmp_path):
    """Source models, of one domain by default."""

    def make(epochs, model=None, domain=None, **training):
        config = make_config(model=model, epochs=epochs, batch_size=8, **training)
        return source_model(config, make_domain(IMAGES) if domain is None else domain, tmp_path)

    return make


def test_in_sixty_steps_avagrad_learns_no_less_than_descent(train):
    sgd = train(15, optimizer="sgd", learning_rate=0.01, momentum=0.99, nesterov=True)
    avagrad = train(15, optimizer="avagrad", learning_rate=1.0)
    assert avagrad.dice_in_domain >= sgd.dice_in_domain


@pytest.fixture
def small(monkeypatch):
    """Section ``model`` of a network that learns as much in less time."""
    return {"name": make_known(monkeypatch)}


def images_of(domain):
    return torch.stack([domain.image(k) for k in range(len(domain))])


def test_stain_agnostic_learning_makes_a_network_blind_to_colours(train, small):
    preset = {key: shipped("training/stain_aglr")[key] for key in ("consistency", "branch_weights")}

    def arm(epochs=60, branches=(), **training):
        return train(epochs, small | {"branches": [*branches]}, camera("A", IMAGES), **GEOMETRY, **training).model

    arms = {
        "plain": arm(),
        "copies": arm(consistency=0.0),
        "stain_aglr": arm(branches=["regeneration"], **preset),
    }
    first_steps = arm(epochs=1, branches=["regeneration"], **preset)
    images = images_of(camera("A unseen", UNSEEN, of="A"))
    copies = recoloured(images, torch.rand(UNSEEN, DRAWS, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        apart = {
            name: float(divergences(model(images), model(copies), model.activation).mean())
            for name, model in arms.items()
        }
    assert apart["stain_aglr"] < apart["copies"] < apart["plain"]
    errors = []
    for model in (first_steps, arms["stain_aglr"]):
        torch.manual_seed(0)
        errors.append(float(branch_loss("regeneration", model, images).detach()))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("blocks", [1, 4])
def test_the_second_pass_of_catenorm_is_no_worse_than_the_first_where_it_was_trained(train, small, blocks):
    seen = replace(joined([camera(name, 24) for name in "ABC"]), name="A")  # the source of the configuration
    model = train(50, small | {"norm": "catenorm", "norm_blocks": blocks}, seen, **GEOMETRY).model
    scores = {}
    for name in "ABC":
        domain = camera(f"{name} unseen", UNSEEN, of=name)
        images, truth = images_of(domain), torch.stack([domain.label(k) for k in range(UNSEEN)])
        with torch.no_grad():
            first = model.one_pass(images)
            second = model.one_pass(images, probabilities(first, model.activation))
            oracle = model.one_pass(images, truth.to(first))
        scores[name] = [
            sum(dice_score(mask, true) for mask, true in zip(each.flatten(0, 1), truth.flatten(0, 1), strict=True))
            / (2 * UNSEEN)
            for each in (masks(logits, model.activation, 0.5) for logits in (first, second, oracle))
        ]
    for first, second, oracle in scores.values():  # percent; the truth in place of a prediction of 96 changes little
        assert second >= first - 0.5
        assert oracle >= second - 0.5
