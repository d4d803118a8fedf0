"""The paired bootstrap, against cases that can be computed exactly."""

import math
from itertools import product

import numpy as np
import pytest

from tta_bench.results.statistics import paired_difference


def test_the_mean_is_over_images_then_targets():
    assert paired_difference([[1.0, 3.0], [10.0] * 5]).mean == pytest.approx((2 + 10) / 2)


def test_the_interval_agrees_with_every_possible_resample():
    """Three images have 27 equally likely resamples; the bootstrap draws from exactly these."""
    values = [0.0, 1.0, 5.0]
    means = sorted(np.mean(resample) for resample in product(values, repeat=3))
    difference = paired_difference([values])
    exact = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    assert (difference.low, difference.high) == (pytest.approx(exact[0]), pytest.approx(exact[1]))


def test_the_interval_of_many_images_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(2, 5, 400)
    difference = paired_difference([values])
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert difference.low == pytest.approx(values.mean() - half, abs=0.05)
    assert difference.high == pytest.approx(values.mean() + half, abs=0.05)


def test_targets_count_equally_in_the_interval_too():
    """A target of few images makes the mean of means uncertain, however many images the other has."""
    draw = np.random.default_rng(0)
    few, many = draw.normal(0, 4, 5), draw.normal(0, 4, 500)
    difference = paired_difference([few, many])
    half = 1.96 * math.hypot(few.std() / math.sqrt(5), many.std() / math.sqrt(500)) / 2
    assert (difference.high - difference.low) / 2 == pytest.approx(half, rel=0.15)


def test_the_same_values_give_the_same_interval():
    values = [list(np.random.default_rng(1).normal(size=20))]
    assert paired_difference(values) == paired_difference(values)
    assert paired_difference(values) != paired_difference(values, seed=1)


def test_the_global_random_state_is_left_alone():
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    paired_difference([[1.0, 2.0, 3.0]])
    assert np.random.rand() == expected


@pytest.mark.parametrize("value", [0.0, -3.5])
def test_equal_differences_have_an_interval_of_no_width(value):
    assert paired_difference([[value] * 6, [value] * 2]) == (value, value, value)


@pytest.mark.parametrize("values", [[[2.0]], [[2.0], [1.0, 3.0]]])
def test_of_one_image_there_is_a_mean_but_no_interval(values):
    difference = paired_difference(values)
    assert difference.mean == pytest.approx(2)
    assert math.isnan(difference.low)
    assert math.isnan(difference.high)


def test_two_images_are_enough_for_an_interval():
    assert paired_difference([[1.0, 3.0]]) == (2.0, 1.0, 3.0)


@pytest.mark.parametrize("values", [[], [[]], [[1.0], []]])
def test_nothing_to_average_is_an_error(values):
    with pytest.raises(ValueError, match="at least one image"):
        paired_difference(values)
