"""Bootstrap, signed-rank test and Holm correction, against cases that can be computed exactly."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import bootstrap

from tta_bench.report.statistics import (
    BATCH,
    RESAMPLES,
    by_part,
    holm,
    mean_and_std,
    mean_of_targets,
    paired_difference,
    reliability,
    running_mean,
    signed_rank_p,
)


def test_the_mean_is_over_images_then_targets():
    assert paired_difference([[1.0, 3.0], [10.0] * 5]).mean == pytest.approx((2 + 10) / 2)


def test_targets_can_have_weights():
    values = [[1.0, 3.0, 2.0], [10.0, 14.0]]
    weighted = paired_difference(values, weights=[3, 1])
    assert weighted.mean == pytest.approx((3 * 2 + 12) / 4)
    assert weighted.low < weighted.mean < weighted.high
    assert paired_difference(values, weights=[2, 2]) == pytest.approx(paired_difference(values))


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


@pytest.mark.parametrize(("counts", "weights"), [([7], None), ([2, 30, 5], None), ([9, 4], [3, 1])])
def test_the_interval_is_that_of_another_library(counts, weights):
    draw = np.random.default_rng(2)
    values = [draw.normal(draw.normal(), 3, count) for count in counts]
    peer = bootstrap(
        values,
        lambda *drawn, axis: np.average([each.mean(axis=axis) for each in drawn], axis=0, weights=weights),
        n_resamples=RESAMPLES,
        batch=BATCH,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert paired_difference(values, weights=weights, seed=5)[1:] == pytest.approx(tuple(peer), rel=1e-12)


def test_of_nan_comes_nan():
    assert np.isnan(paired_difference([[1.0, 2.0], [3.0, math.nan, 4.0]])).all()


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


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0.0] * 6, [0.0] * 2], (0, 0, 0)),
        ([[-3.5] * 6, [-3.5] * 2], (-3.5, -3.5, -3.5)),
        ([[1.0, 3.0]], (2, 1, 3)),  # two images are enough for an interval
        ([[2.0]], (2, math.nan, math.nan)),
        ([[2.0], [1.0, 3.0]], (2, math.nan, math.nan)),
    ],
)
def test_the_interval_of_few_or_equal_images(values, expected):
    assert paired_difference(values) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("function", [paired_difference, mean_of_targets])
@pytest.mark.parametrize("values", [[], [[]], [[1.0], []]])
def test_nothing_to_average_is_an_error(function, values):
    with pytest.raises(ValueError, match="at least one image"):
        function(values)


def exact_p(differences):
    """Two-sided: the share of all signs whose rank sum is at least as far from its mean as the observed one."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    observed = sum(rank for rank, value in zip(ranks, differences, strict=True) if value > 0)
    middle = ranks.sum() / 2
    sums = [
        sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign)
        for signs in product((0, 1), repeat=len(ranks))
    ]
    return np.mean([abs(total - middle) >= abs(observed - middle) for total in sums])


@pytest.mark.parametrize(
    "differences", [[1.5], [1.0, 2.0, 3.0, 4.0, 5.0], [-1.0, 2.0, 3.0, 4.0, -5.0, 6.0, 7.5], [3.0, -1.0, 2.0, -4.0]]
)
def test_the_signed_rank_test_of_few_images_is_that_of_every_possible_sign(differences):
    assert signed_rank_p(differences) == pytest.approx(exact_p(differences))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], 2 / 2**5),  # the smallest that five images allow
        ([0.0, 1.0, 0.0, -2.0, 3.0, 4.0, 0.0], exact_p([1.0, -2.0, 3.0, 4.0])),  # zero differences say nothing
        ([], 1),
        ([0.0], 1),
        ([0.0] * 30, 1),
    ],
)
def test_the_signed_rank_test_at_its_ends(differences, p):
    assert signed_rank_p(differences) == pytest.approx(p)


def test_p_is_the_same_for_a_loss_as_for_a_gain():
    values = np.random.default_rng(0).normal(0.3, 1, 60)
    assert signed_rank_p(values) == pytest.approx(signed_rank_p(-values))
    assert 0 < signed_rank_p(values) < 1


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        # sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1, the last raised to its predecessor
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.6, 0.9, 0.7], [1.0, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holm_multiplies_the_smallest_p_by_the_number_of_methods_and_the_largest_by_one(p, corrected):
    assert holm(p) == pytest.approx(corrected)


def test_the_standard_deviation_over_seeds_is_that_of_a_sample():
    assert mean_and_std([1.0, 2.0, 6.0]) == (pytest.approx(3.0), pytest.approx(math.sqrt((4 + 1 + 9) / 2)))
    assert mean_and_std([5.0]) == (5.0, None)
    with pytest.raises(ValueError, match="nothing to average"):
        mean_and_std([])


def test_the_running_mean_is_over_the_images_so_far_and_ends_at_the_mean_over_streams():
    streams = [[10.0, 30.0, 80.0, 40.0], [50.0, 70.0]]
    assert running_mean(streams, [0, 1, 2, 3]).tolist() == [30.0, 40.0, 50.0, 50.0]
    assert running_mean(streams, [3])[0] == np.mean([np.mean(each) for each in streams])


def test_parts_of_a_stream_pool_streams_of_any_length_and_leave_out_what_is_not_finite():
    median, low, high = by_part([[1.0, 2.0, 3.0, 4.0], [5.0, np.nan]], parts=2)
    assert median.tolist() == [2.0, 3.5]
    assert (low[0], high[0]) == tuple(np.percentile([1.0, 2.0, 5.0], (10, 90)))


def test_a_part_without_values_is_not_a_number():
    assert np.isnan(by_part([[np.nan, 1.0]], parts=2)).tolist() == [[True, False]] * 3


def test_an_estimate_counts_targets_equally_and_its_interval_covers_the_truth_as_often_as_it_says():
    assert mean_of_targets([[1.0, 3.0], [10.0, 10.0, 10.0]]).mean == 6.0
    rng = np.random.default_rng(0)
    estimates = [mean_of_targets([rng.normal(1, 2, 40), rng.normal(3, 1, 200)]) for _ in range(1000)]
    covered = np.mean([each.low <= 2 <= each.high for each in estimates])
    assert 0.93 < covered < 0.97


def test_of_one_image_there_is_no_interval():
    assert np.isnan(mean_of_targets([[1.0], [1.0, 2.0]]).low)


def test_images_without_a_value_are_passed_over_by_a_running_mean():
    values = running_mean([[math.nan, 2.0, math.nan, 4.0]], [0, 1, 2, 3])
    assert values == pytest.approx([math.nan, 2.0, 2.0, 3.0], nan_ok=True)


def test_reliability_of_all_images_is_the_interval_of_the_table_and_grows_with_images():
    rng = np.random.default_rng(0)
    differences = [rng.normal([[2.0], [1.0], [1.0]], 3.0, (3, images)) for images in (40, 80)]
    weights = np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    measured = reliability(differences, weights)
    assert list(measured.images) == sorted(measured.images)
    assert measured.images[-1] == 120
    for row, width in enumerate(measured.widths[:, -1]):
        whole = paired_difference([target[row] for target in differences], weights=weights[row])
        assert width == pytest.approx(whole.high - whole.low, rel=0.1)
    assert np.all(np.diff(measured.widths) < 0)
    assert measured.widths[0, 0] / measured.widths[0, -1] == pytest.approx(
        np.sqrt(measured.images[-1] / measured.images[0]), rel=0.25
    )
    assert measured.same_order[-1] > measured.same_order[0] > 0.5
    assert np.all(measured.same_order <= 1)


def test_rows_that_are_apart_on_every_image_keep_their_order_and_equal_ones_tie():
    apart = reliability([np.array([[1.0, 1.1], [3.0, 3.1], [-2.0, -2.1]])], np.ones((3, 1)))
    assert (apart.same_order.min(), apart.same_best.min()) == (1.0, 1.0)
    equal = reliability([np.ones((2, 5))], np.ones((2, 1)))
    assert (equal.same_order.min(), equal.widths.max()) == (1.0, 0.0)
