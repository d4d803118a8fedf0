import pytest
import torch
from torch import nn

from tta_bench.methods.optimizers import make_optimizer
from tta_bench.methods.state import FIRST_TABLE, AdaptedParameters

OPTIMIZERS = {
    "adam": {"name": "adam"},
    "adam with betas": {"name": "adam", "betas": (0.5, 0.99)},
    "sgd": {"name": "sgd"},
    "sgd with momentum": {"name": "sgd", "momentum": 0.9},
    "sgd with Nesterov's momentum": {"name": "sgd", "momentum": 0.99, "nesterov": True},
}


def torch_optimizer(name, parameter):
    """The optimiser of one stream on its own."""
    kind, *settings = OPTIMIZERS[name].items()
    return {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[kind[1]]([parameter], lr=1.0, **dict(settings))


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def new_state(name="adam", streams=3, scalars=5):
    return AdaptedParameters(random(scalars), streams, make_optimizer(**OPTIMIZERS[name]))


def optimizer_state(state, row):
    return state.moments[:, row].clone(), state.steps[row].clone()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scalars", [5, 16, 37, 4999])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_row_is_bit_for_bit_that_of_an_optimiser_and_a_learning_rate_of_its_own(name, scalars, dtype):
    """Rows are skipped at different steps, so that their step counters and moments part."""
    streams = 3
    state = AdaptedParameters(random(scalars, dtype=dtype), streams, make_optimizer(**OPTIMIZERS[name]))
    alone = [nn.Parameter(random(scalars, dtype=dtype)) for _ in range(streams)]
    optimizers = [torch_optimizer(name, parameter) for parameter in alone]
    for update in range(9):
        gradient = random(streams, scalars, seed=update + 1, dtype=dtype)
        rates = random(streams, seed=update + 90, dtype=dtype).abs()
        gradient[update % 4 :: 4, scalars // 2] = torch.nan
        skipped = state.step(gradient, rates, torch.zeros(streams, dtype=dtype))
        assert skipped.tolist() == [row == update % 4 for row in range(streams)]
        for row in (~skipped).nonzero().flatten().tolist():
            alone[row].grad, optimizers[row].param_groups[0]["lr"] = gradient[row].clone(), rates[row].item()
            optimizers[row].step()
        assert torch.equal(state.theta, torch.stack([parameter.detach() for parameter in alone]))


@pytest.mark.parametrize("name", ["adam", "sgd with momentum"])
def test_a_stream_of_many_images_is_bit_for_bit_that_of_an_optimiser_of_its_own(name):
    """Longer than the first table of corrections; the other row has made fewer steps."""
    state, alone = new_state(name, streams=2), nn.Parameter(random(5))
    optimizer = torch_optimizer(name, alone)
    for update in range(3 * FIRST_TABLE):
        gradient = random(2, 5, seed=update)
        state.step(gradient, torch.full((2,), 0.1, dtype=torch.float64), torch.tensor([0.0, torch.nan]))
        alone.grad, optimizer.param_groups[0]["lr"] = gradient[0].clone(), 0.1
        optimizer.step()
    assert torch.equal(state.theta, torch.stack([alone.detach(), random(5)]))


def test_a_restored_state_goes_on_bit_for_bit():
    first, restored = new_state(), new_state()
    for update in range(FIRST_TABLE + 3):
        first.step(random(3, 5, seed=update), torch.full((3,), 0.1), torch.zeros(3))
    restored.load_state_dict(first.state_dict())
    for each in (first, restored):
        each.step(random(3, 5), torch.full((3,), 0.1), torch.zeros(3))
    assert torch.equal(first.theta, restored.theta)
    assert first.theta.data_ptr() != restored.theta.data_ptr()


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
    assert all(map(torch.equal, optimizer_state(state, 1), before))
    followed = state.followed_gradient(3)
    assert followed[1].isnan().all()
    assert torch.equal(followed[[0, 2]], given["gradient"][[0, 2]])


def test_streams_that_have_ended_stay_as_they_are():
    state = new_state()
    state.step(random(3, 5), torch.full((3,), 0.1), torch.zeros(3))
    theta, before = state.theta.clone(), optimizer_state(state, 2)
    state.step(random(2, 5, seed=1), torch.full((2,), 0.1), torch.zeros(2))
    assert torch.equal(state.theta[2], theta[2])
    assert (state.theta[:2] != theta[:2]).all()
    assert all(map(torch.equal, optimizer_state(state, 2), before))


def test_resetting_a_row_brings_back_the_source_and_forgets_the_moments():
    state = new_state()
    for update in range(3):
        state.step(random(3, 5, seed=update), torch.full((3,), 0.1), torch.zeros(3))
    others = state.theta[[0, 2]].clone()
    state.reset(torch.tensor([False, True]), random(5))
    assert torch.equal(state.theta[1], random(5))
    assert torch.equal(state.theta[[0, 2]], others)
    fresh = new_state(streams=1)
    state.step(random(3, 5, seed=7), torch.full((3,), 0.1), torch.zeros(3))
    fresh.step(random(3, 5, seed=7)[1:2], torch.full((1,), 0.1), torch.zeros(1))
    assert torch.equal(state.theta[1], fresh.theta[0])


def test_the_source_is_copied():
    source = random(5)
    state = AdaptedParameters(source, 2, make_optimizer("sgd"))
    state.step(random(2, 5), torch.ones(2), torch.zeros(2))
    assert torch.equal(source, random(5))
