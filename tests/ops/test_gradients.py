"""Gradient combiners against the worked examples of their papers (GC-1 … GC-4, P1-P4, D2-D7)."""

import pytest
import torch

from tta_bench.methods.sagm import ascent
from tta_bench.ops.gradients import cagrad, gradient_cosine, pcgrad, project_conflicts


def rows(*values):
    return torch.tensor([values], dtype=torch.float64)


def test_pcgrad_projects_each_against_the_others_original_p1_d2():
    first, second = rows(1, 0), rows(-1, 1)
    a, b = pcgrad(first, second)
    torch.testing.assert_close(a, rows(0.5, 0.5))
    torch.testing.assert_close(b, rows(0, 1))
    assert float((a * second).sum()) == 0
    torch.testing.assert_close(a + b, rows(0.5, 1.5))


def test_pcgrad_of_agreeing_gradients_changes_no_bit_p2():
    torch.manual_seed(0)
    first = torch.randn(3, 50)
    second = first + 0.1 * torch.randn(3, 50)
    assert all(torch.equal(x, y) for x, y in zip(pcgrad(first, second), (first, second), strict=True))


def test_pcgrad_with_a_zero_gradient_p3_and_antiparallel_d2():
    a, b = pcgrad(rows(1, 2), rows(0, 0))
    assert torch.equal(a, rows(1, 2))
    assert torch.equal(b, rows(0, 0))
    assert torch.equal(sum(pcgrad(rows(1, 0), rows(-2, 0))), rows(0, 0))


def test_no_component_against_the_other_is_left_p4():
    torch.manual_seed(1)
    first, second = torch.randn(20, 30, dtype=torch.float64), torch.randn(20, 30, dtype=torch.float64)
    a, b = pcgrad(first, second)
    assert ((a * second).sum(1) >= -1e-6).all()
    assert ((b * first).sum(1) >= -1e-6).all()


GROUPS = [2, 2]


@pytest.mark.parametrize(
    ("main", "auxiliary", "layerwise", "networkwise"),
    [
        ((1, 0, 0, 3), (-1, 0, 0, 1), (0, 0, 0, 3), (1, 0, 0, 3)),  # D4 a
        ((1, 0, 0, 1), (-3, 0, 0, 1), (0, 0, 0, 1), (0.4, 0, 0, 1.2)),  # D4 b
    ],
)
def test_layerwise_and_networkwise_projection_differ_d4(main, auxiliary, layerwise, networkwise):
    torch.testing.assert_close(project_conflicts(rows(*main), rows(*auxiliary), GROUPS), rows(*layerwise))
    torch.testing.assert_close(project_conflicts(rows(*main), rows(*auxiliary)), rows(*networkwise))


def test_projection_laws_d4_c_to_f_and_rows_are_independent():
    torch.manual_seed(2)
    groups = [10] * 4
    main, auxiliary = torch.randn(6, 40), torch.randn(6, 40)
    out = project_conflicts(main, auxiliary, groups)
    torch.testing.assert_close(project_conflicts(main, 1e3 * auxiliary, groups), out)
    for group in range(4):
        part = slice(10 * group, 10 * (group + 1))
        inner = (main[:, part] * auxiliary[:, part]).sum(1)
        after = (out[:, part] * auxiliary[:, part]).sum(1)
        assert torch.equal(out[inner >= 0][:, part], main[inner >= 0][:, part])
        bound = 1e-6 * main[:, part].norm(dim=1) * auxiliary[:, part].norm(dim=1)
        assert (after[inner < 0].abs() <= bound[inner < 0]).all()
        assert (out[:, part].norm(dim=1) <= main[:, part].norm(dim=1) * (1 + 1e-6)).all()
    for row in range(6):
        assert torch.equal(project_conflicts(main[row : row + 1], auxiliary[row : row + 1], groups)[0], out[row])


@pytest.mark.parametrize("scale", [0.0, 1e-24])
def test_a_vanishing_auxiliary_gradient_changes_nothing_gc2(scale):
    main = torch.tensor([[1.0, -2.0]])
    assert torch.equal(project_conflicts(main, scale * torch.tensor([[-1.0, 1.0]])), main)


def test_equal_gradients_gc3():
    g = rows(1, -2, 3)
    torch.testing.assert_close(sum(pcgrad(g, g)), 2 * g)
    torch.testing.assert_close(project_conflicts(g, g), g)
    torch.testing.assert_close(cagrad(g, g, 0.4), 1.4 * g)


def test_a_plain_step_along_the_projection_does_not_raise_the_auxiliary_loss_gc4():
    torch.manual_seed(3)
    main, auxiliary = torch.randn(50, 20, dtype=torch.float64), torch.randn(50, 20, dtype=torch.float64)
    change = -(project_conflicts(main, auxiliary) * auxiliary).sum(1)
    assert (change <= 1e-6 * main.norm(dim=1) * auxiliary.norm(dim=1)).all()


@pytest.mark.parametrize(
    ("second", "radius", "expected"),
    [
        ((-1, 1), 0.4, (0.2, 0.5)),
        ((-1, 1), 0.5, (0.25, 0.5)),
        ((-1, 1), 0.9, (0.3746, 0.7493)),
        ((-3, 1), 0.4, (-0.55279, 0.5)),
        ((-3, 1), 0.5, (-0.44098, 0.5)),
    ],
)
def test_cagrad_worked_examples_d6(second, radius, expected):
    first, second = rows(1, 0), rows(*second)
    direction = cagrad(first, second, radius)
    torch.testing.assert_close(direction, rows(*expected), atol=1e-4, rtol=0)
    mean = (first + second) / 2
    torch.testing.assert_close((direction - mean).norm(), radius * mean.norm())


@pytest.mark.parametrize("radius", [0.0, 0.1, 0.4, 0.9, 3.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_cagrad_weighs_the_gradients_as_a_search_does(radius, scale):
    generator = torch.Generator().manual_seed(6)
    first, second = scale * torch.randn(2, 60, 8, generator=generator, dtype=torch.float64)
    second[20:40] += 3 * first[20:40]  # much alike, and of another length
    second[40:] = (second[40:] * 1e-3 - first[40:]) * torch.linspace(0.01, 3, 20)[:, None]  # almost opposed
    mean, low, high = (first + second) / 2, torch.zeros(60, 1).double(), torch.ones(60, 1).double()

    def value(weight):
        mixed = weight * first + (1 - weight) * second
        return ((mixed * mean).sum(1) + radius * mean.norm(dim=1) * mixed.norm(dim=1))[:, None]

    for _ in range(100):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        go_left = value(left) <= value(right)
        low, high = torch.where(go_left, low, left), torch.where(go_left, right, high)
    direction = cagrad(first, second, radius)
    reached = torch.minimum((direction * first).sum(1), (direction * second).sum(1))
    # By duality the worse objective gains as much as the least of that function.
    torch.testing.assert_close(reached, value(low)[:, 0], rtol=1e-9, atol=1e-10 * scale**2)


def test_cagrad_of_radius_zero_is_the_mean_and_opposed_gradients_are_safe_d6():
    first, second = rows(1, 0), rows(-3, 1)
    torch.testing.assert_close(cagrad(first, second, 0.0), (first + second) / 2)
    assert torch.equal(cagrad(rows(1, 0), rows(-1, 0), 0.4), rows(0, 0))


def test_sagm_worked_example_d7():
    theta = torch.tensor([[1.0]], dtype=torch.float64)
    here = 2 * theta
    step = ascent(here, 0.05, 0.001)
    assert float(step) == pytest.approx(0.048)
    assert float((here + 2 * (theta + step)) / 2) == pytest.approx(2.048)
    assert torch.equal(ascent(here, 0.0, 0.0), torch.zeros_like(here))
    assert torch.equal(ascent(torch.zeros(1, 3), 0.05, 0.001), torch.zeros(1, 3))


def test_the_cosine_of_a_zero_gradient_is_zero():
    assert float(gradient_cosine(rows(0, 0), rows(1, 1))) == 0
