"""What other trainings are for, on images that are learnt in seconds: directions, no figures."""

from functools import partial

import pytest
import torch

from tta_bench.metrics.dice import dice_score
from tta_bench.objectives.regeneration import training_loss
from tta_bench.ops.probabilities import divergences, masks
from tta_bench.ops.stain import DRAWS, recoloured
from tta_bench.source.train import source_model

pytestmark = pytest.mark.slow

IMAGES = 40
"""30 of them to train on: four steps per epoch."""


@pytest.fixture
def train(make_config, make_domain, tmp_path):
    """Source models of one domain."""

    def make(epochs, model=None, **training):
        config = make_config(model=model, epochs=epochs, batch_size=8, **training)
        return source_model(config, make_domain(IMAGES), tmp_path)

    return make


@pytest.fixture
def images(make_domain):
    domain = make_domain(IMAGES)
    return torch.stack([domain.image(index) for index in range(IMAGES)])


def test_in_sixty_steps_avagrad_learns_no_less_than_descent(train):
    sgd = train(15, optimizer="sgd", learning_rate=0.01, momentum=0.99, nesterov=True)
    avagrad = train(15, optimizer="avagrad", learning_rate=1.0)
    assert avagrad.dice_in_domain >= sgd.dice_in_domain


def test_copies_make_invariant_and_consistency_more_so_and_regeneration_learns(train, images):
    uniform = torch.rand(IMAGES, DRAWS, generator=torch.Generator().manual_seed(0))
    copies = recoloured(images, uniform)

    @torch.no_grad()
    def disagreement(source):
        return float(divergences(source.model(images), source.model(copies), "sigmoid").mean())

    branch = {"branches": ["regeneration"]}
    best = train(50, model=branch, consistency=10.0, branch_weights={"regeneration": 0.1})
    assert disagreement(best) < disagreement(train(50, consistency=0.0)) < disagreement(train(50))
    errors = []
    for source in (best, train(1, model=branch, branch_weights={"regeneration": 0.1})):
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            errors.append(float(training_loss(partial(source.model.branch, "regeneration"), images)))
    assert errors[0] < errors[1]


def test_the_second_pass_is_no_worse_than_the_first(train, images, make_domain):
    model, domain = train(60, model={"norm": "catenorm", "norm_blocks": 1}).model, make_domain(IMAGES)
    with torch.no_grad():
        first, second = masks(model.one_pass(images), "sigmoid", 0.5), masks(model(images), "sigmoid", 0.5)
    truth = [domain.label(index) for index in range(IMAGES)]
    scores = [[dice_score(*pair) for pair in zip(each, truth, strict=True)] for each in (first, second)]
    dice = [float(torch.stack(each).mean()) for each in scores]
    assert dice[1] >= dice[0] - 0.5
