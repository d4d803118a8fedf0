import copy

import pytest
import torch
from torch import nn

from tta_bench.methods.state import AffineState, make_optimizer

OPTIMIZERS = {
    "adam": {"name": "adam"},
    "sgd": {"name": "sgd"},
    "sgd with momentum": {"name": "sgd", "momentum": 0.9},
    "sgd with Nesterov's momentum": {"name": "sgd", "momentum": 0.99, "nesterov": True},
}


def torch_optimizer(name, parameter):
    """The optimiser of one stream on its own."""
    if name == "adam":
        return torch.optim.Adam([parameter], lr=1.0)
    settings = {key: value for key, value in OPTIMIZERS[name].items() if key != "name"}
    return torch.optim.SGD([parameter], lr=1.0, **settings)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def new_state(name="adam", streams=3, scalars=5):
    return AffineState(random(scalars), streams, make_optimizer(**OPTIMIZERS[name]))


def optimizer_state(state, row):
    return copy.deepcopy(state.optimizer.state.get(state._rows[row], {}))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_row_moves_as_with_an_optimiser_and_a_learning_rate_of_its_own(name):
    state = new_state(name)
    alone = [nn.Parameter(random(5)) for _ in range(3)]
    optimizers = [torch_optimizer(name, parameter) for parameter in alone]
    for update in range(4):
        gradient, rates = random(3, 5, seed=update + 1), random(3, seed=update + 9).abs()
        assert not state.step(gradient, rates, torch.zeros(3)).any()
        for parameter, optimizer, g, rate in zip(alone, optimizers, gradient, rates.tolist(), strict=True):
            parameter.grad, optimizer.param_groups[0]["lr"] = g.clone(), rate
            optimizer.step()
    torch.testing.assert_close(state.theta, torch.stack([p.detach() for p in alone]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("fault", ["loss", "gradient", "rate"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_skipped_and_its_optimiser_state_untouched(name, fault, value):
    state, healthy = new_state(name), new_state(name)
    for each in (state, healthy):
        each.step(random(3, 5), torch.full((3,), 0.1), torch.zeros(3))
    theta, before = state.theta.clone(), optimizer_state(state, 1)
    given = {"gradient": random(3, 5, seed=1), "rate": torch.full((3,), 0.1), "loss": torch.zeros(3)}
    healthy.step(*given.values())
    given[fault][1] = value
    assert state.step(*given.values()).tolist() == [False, True, False]
    assert torch.equal(state.theta[1], theta[1])
    assert torch.equal(state.theta[[0, 2]], healthy.theta[[0, 2]])
    after = optimizer_state(state, 1)
    assert before.keys() == after.keys()
    for key, value_before in before.items():
        assert value_before is after[key] is None or torch.equal(value_before, after[key]), key


def test_streams_that_have_ended_stay_as_they_are():
    state = new_state()
    state.step(random(3, 5), torch.full((3,), 0.1), torch.zeros(3))
    theta, before = state.theta.clone(), optimizer_state(state, 2)
    state.step(random(2, 5, seed=1), torch.full((2,), 0.1), torch.zeros(2))
    assert torch.equal(state.theta[2], theta[2])
    assert (state.theta[:2] != theta[:2]).all()
    assert all(torch.equal(value, before[key]) for key, value in optimizer_state(state, 2).items())


def test_resetting_a_row_brings_back_the_source_and_forgets_the_moments():
    state = new_state()
    for update in range(3):
        state.step(random(3, 5, seed=update), torch.full((3,), 0.1), torch.zeros(3))
    others = state.theta[[0, 2]].clone()
    state.reset_row(1, random(5))
    assert torch.equal(state.theta[1], random(5))
    assert torch.equal(state.theta[[0, 2]], others)
    fresh = new_state(streams=1)
    state.step(random(3, 5, seed=7), torch.full((3,), 0.1), torch.zeros(3))
    fresh.step(random(3, 5, seed=7)[1:2], torch.full((1,), 0.1), torch.zeros(1))
    assert torch.equal(state.theta[1], fresh.theta[0])


def test_the_source_is_copied():
    source = random(5)
    state = AffineState(source, 2, make_optimizer("sgd"))
    state.step(random(2, 5), torch.ones(2), torch.zeros(2))
    assert torch.equal(source, random(5))
