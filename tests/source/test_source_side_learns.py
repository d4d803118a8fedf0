"""What other trainings are for, on images that are learnt in seconds: directions, no figures."""

import pytest

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


def test_in_sixty_steps_avagrad_learns_no_less_than_descent(train):
    sgd = train(15, optimizer="sgd", learning_rate=0.01, momentum=0.99, nesterov=True)
    avagrad = train(15, optimizer="avagrad", learning_rate=1.0)
    assert avagrad.dice_in_domain >= sgd.dice_in_domain
