"""AvaGrad against its equations, written out in numpy."""

import copy

import numpy as np
import pytest
import torch

from tta_bench.source.avagrad import AvaGrad

FIRST, SECOND = 0.9, 0.999


def written_out(start, gradients, lr, eps, corrected=True):
    """The weights after every step, and the rates of the last one before they are scaled."""
    w, m, v = start.astype(np.float64), 0.0, np.zeros(start.shape)
    path, rates = [], None
    for t, g in enumerate(gradients.astype(np.float64), 1):
        m = FIRST * m + (1 - FIRST) * g
        if t > 1 or not corrected:
            before = v / (1 - SECOND ** (t - 1)) if corrected else v
            rates = 1 / (np.sqrt(before) + eps)
            averaged = m / (1 - FIRST**t) if corrected else m
            w = w - lr * rates / np.linalg.norm(rates / np.sqrt(rates.size)) * averaged
        v = SECOND * v + (1 - SECOND) * g**2
        path.append(w)
    return path, rates


def run(start, gradients, **options):
    """The weights after every step; the scalars lie in two tensors, whose rates are scaled together."""
    whole = torch.from_numpy(start.copy())
    parts = [torch.nn.Parameter(part.clone()) for part in (whole[:5], whole[5:])]
    optimizer = AvaGrad(parts, **options)
    path = []
    for gradient in gradients:
        for part, values in zip(parts, torch.from_numpy(gradient).split([5, len(start) - 5]), strict=True):
            part.grad = values.clone()
        optimizer.step()
        path.append(torch.cat([part.detach() for part in parts]).numpy())
    return path


@pytest.fixture
def walk():
    rng = np.random.default_rng(0)
    return rng.normal(size=13), rng.normal(size=(20, 13)) * np.logspace(-3, 1, 13)


@pytest.mark.parametrize("corrected", [True, False])
def test_twenty_steps_are_those_of_the_equations(walk, corrected):
    expected, rates = written_out(*walk, lr=0.3, eps=0.1, corrected=corrected)
    for found, wanted in zip(run(*walk, lr=0.3, eps=0.1, bias_correction=corrected), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    scaled = rates / np.linalg.norm(rates / np.sqrt(rates.size))
    assert np.sqrt(np.mean(scaled**2)) == pytest.approx(1)


def test_a_gradient_is_damped_from_the_next_step_on_and_the_first_moves_nothing(walk):
    start, gradients = walk
    huge = gradients.copy()
    huge[10, 3] = 1e6
    plain, path = run(start, gradients, lr=0.3, eps=0.1), run(start, huge, lr=0.3, eps=0.1)
    np.testing.assert_array_equal(plain[0], start)
    steps = np.abs(np.diff([start, *path], axis=0))
    assert steps[10, 3] > 1e4 * np.abs(plain[10] - plain[9])[3]
    assert steps[11, 3] < 1e-2 * steps[10, 3]


def test_with_a_large_epsilon_it_is_descent_along_the_averaged_gradient(walk):
    start, gradients = walk
    w, m = start.copy(), 0.0
    for t, gradient in enumerate(gradients, 1):
        m = FIRST * m + (1 - FIRST) * gradient
        w = w - (0.3 * m / (1 - FIRST**t) if t > 1 else 0)
    np.testing.assert_allclose(run(start, gradients, lr=0.3, eps=1e6)[-1], w, rtol=1e-4)


def test_steps_scale_with_gradient_and_epsilon_and_hardly_depend_on_epsilon(walk):
    start, gradients = walk
    moved = run(start, gradients, lr=0.3, eps=0.1)[-1] - start
    np.testing.assert_allclose(run(start, 7 * gradients, lr=0.3, eps=0.7)[-1] - start, 7 * moved, rtol=1e-6)

    def lengths(make):
        found = []
        for eps in (1e-3, 0.1, 10):
            weights = torch.nn.Parameter(torch.zeros(13))
            optimizer = make([weights], eps)
            for gradient in gradients:
                weights.grad = torch.from_numpy(gradient / np.logspace(0, 4, 13)).float()
                optimizer.step()
            found.append(float(weights.detach().norm()))
        return max(found) / min(found)

    assert lengths(lambda weights, eps: torch.optim.Adam(weights, lr=1, eps=eps)) > 100
    assert lengths(lambda weights, eps: AvaGrad(weights, lr=1, eps=eps)) < 10


def test_a_stored_state_goes_on_where_it_was(walk):
    start, gradients = walk
    whole = run(start, gradients, lr=0.3, eps=0.1, weight_decay=0.01)
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = AvaGrad([parameter], lr=0.3, eps=0.1, weight_decay=0.01)
    for step, gradient in enumerate(gradients):
        if step == 9:
            state, parameter = copy.deepcopy(optimizer.state_dict()), torch.nn.Parameter(parameter.detach().clone())
            optimizer = AvaGrad([parameter], lr=1.0)
            optimizer.load_state_dict(state)
        parameter.grad = torch.from_numpy(gradient).clone()
        optimizer.step()
    np.testing.assert_allclose(parameter.detach().numpy(), whole[-1], rtol=1e-12)
