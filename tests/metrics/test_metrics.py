"""Laws of every metric, and what a registered one is asked for."""

import math
import re

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from torchmetrics.functional.classification import (
    binary_calibration_error,
    binary_f1_score,
    binary_jaccard_index,
    binary_precision,
    binary_recall,
)

from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.grammar import quote_lists
from tta_bench.metrics import base
from tta_bench.metrics.base import METRICS, Sample, register_metric
from tta_bench.metrics.dice import dice_score
from tta_bench.metrics.surfacedice import TOLERANCE
from tta_bench.registry import Registry

CLASSES = ("disc", "cup", "vessel")
SPACES = {
    "image": ((64, 80), (1.0, 1.0)),
    "millimetres": ((64, 80), (0.4, 1.5)),
    "volume": ((9, 20, 24), (3.0, 1.0, 1.0)),
}
SYMMETRIC = {"dice", "iou", "hd95", "assd", "surfacedice", "vcdr"}
PER_MASK = [name for name in METRICS.names() if METRICS.get(name).of in ("masks", "surfaces")]


def discs(draw, shape):
    """A noisy ellipsoid per class, bool ``[classes, *shape]``."""
    grid = np.indices(shape)
    masks = []
    for _ in CLASSES:
        centre, radius = ([draw.uniform(low, high) * side for side in shape] for low, high in ((0.4, 0.6), (0.2, 0.35)))
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radius, strict=True)) <= 1
        masks.append(inside ^ (draw.random(shape) < 0.02))
    return torch.from_numpy(np.stack(masks))


@pytest.fixture(params=SPACES)
def sample(request):
    shape, spacing = SPACES[request.param]
    draw = np.random.default_rng(0)
    prediction, truth = discs(draw, shape), discs(draw, shape)
    noise = torch.from_numpy(draw.uniform(0.01, 0.49, prediction.shape))
    return Sample(prediction, truth, CLASSES, spacing, (noise + 0.5 * prediction).float())


def swapped(sample):
    return Sample(sample.truth, sample.prediction, CLASSES, sample.spacing, sample.probabilities)


def like(sample, prediction, truth):
    """All masks full of one value, or None to keep them."""
    given = [
        old if value is None else torch.full_like(old, value)
        for value, old in ((prediction, sample.prediction), (truth, sample.truth))
    ]
    return Sample(*given, CLASSES, sample.spacing, given[0].float())


@pytest.mark.parametrize("name", METRICS.names())
class TestEveryMetric:
    def test_is_pure_in_its_range_and_one_value_per_class_in_any_order(self, name, sample):
        metric = METRICS.get(name)
        before = sample.prediction.clone(), sample.truth.clone()
        values = metric.score(sample)
        assert values == metric.score(sample)
        assert torch.equal(sample.prediction, before[0])
        assert torch.equal(sample.truth, before[1])
        assert len(values) == (len(CLASSES) if metric.per_class else 1)
        assert all(metric.range[0] <= value <= metric.range[1] for value in values)
        order = [2, 0, 1]
        turned = [each[order] for each in (sample.prediction, sample.truth, sample.probabilities)]
        names = [CLASSES[place] for place in order]
        permuted = metric.score(Sample(turned[0], turned[1], names, sample.spacing, turned[2]))
        assert permuted == ([values[place] for place in order] if metric.per_class else values)

    def test_a_perfect_prediction_is_best(self, name, sample):
        metric = METRICS.get(name)
        perfect = Sample(sample.truth, sample.truth, CLASSES, sample.spacing, sample.truth.float())
        lowest, highest = metric.range
        if metric.direction == "none":
            assert metric.best([1.0, 2.0]) == []
        else:
            best, worse = (highest, -1) if metric.direction == "higher" else (lowest, 1)
            assert metric.score(perfect) == pytest.approx([best] * len(metric.score(perfect)))
            assert metric.best([best, best + worse]) == [best, best + worse]
            assert all((value - best) * worse >= 0 for value in metric.score(sample))

    def test_is_symmetric_where_it_is_due(self, name, sample):
        metric = METRICS.get(name)
        same = metric.score(sample) == pytest.approx(metric.score(swapped(sample)))
        assert same == (name in SYMMETRIC)

    def test_of_empty_masks_by_the_rule(self, name, sample):
        metric = METRICS.get(name)
        nothing = like(sample, False, False)
        lowest, highest = metric.range
        best, worst = (highest, lowest) if metric.direction == "higher" else (lowest, highest)
        values = metric.score(nothing)
        if metric.direction == "none" or metric.of == "probabilities":
            assert values == metric.score(nothing, "skip") == [0.0] * 3
            return
        assert values == pytest.approx([best] * len(values), abs=1e-9)
        assert all(map(math.isnan, metric.score(nothing, "skip")))
        shape = sample.truth.shape[1:]
        diagonal = math.sqrt(sum((side * length) ** 2 for side, length in zip(shape, sample.spacing, strict=True)))
        for one_sided in (like(sample, None, False), like(sample, False, None)):
            expected = diagonal if math.isinf(worst) else worst
            assert metric.score(one_sided) == pytest.approx([expected] * len(values), abs=1e-5)
            assert metric.score(one_sided) == metric.score(one_sided, "skip")
            assert metric.is_distance == (expected == diagonal)


def reference(name, prediction, truth, spacing, probability):
    """The value of one class by another library."""
    flat = prediction.flatten(), truth.flatten()
    one_hot = [mask[None, None].float() for mask in (prediction, truth)]
    surface = {"include_background": True, "spacing": list(spacing)}
    values = {
        "dice": lambda: 100 * binary_f1_score(*flat),
        "iou": lambda: 100 * binary_jaccard_index(*flat),
        "sensitivity": lambda: 100 * binary_recall(*flat),
        "precision": lambda: 100 * binary_precision(*flat),
        "hd95": lambda: compute_hausdorff_distance(*one_hot, percentile=95, **surface),
        "assd": lambda: compute_average_surface_distance(*one_hot, symmetric=True, **surface),
        "surfacedice": lambda: 100 * compute_surface_dice(*one_hot, class_thresholds=[TOLERANCE], **surface),
        "ece": lambda: 100 * binary_calibration_error(probability.flatten(), flat[1].int(), n_bins=15),
        "brier": lambda: torch.nn.functional.mse_loss(probability, truth.float()),
        "foreground": lambda: 100 * prediction.float().mean(),
    }
    return float(values[name]())


@pytest.mark.parametrize(
    "name", [name for name in METRICS.names() if METRICS.get(name).per_class and "area" not in name]
)
def test_another_library_has_the_same_value(name, sample):
    places = range(len(CLASSES))
    given = [(sample.prediction[k], sample.truth[k], sample.spacing, sample.probabilities[k]) for k in places]
    expected = [reference(name, *each) for each in given]
    assert METRICS.get(name).score(sample) == pytest.approx(expected, rel=2e-5)


def test_surface_distances_are_those_between_all_pairs_of_boundary_pixels(sample):
    """By definition, without a distance transform."""

    def boundary(mask):
        inside = {tuple(place) for place in mask.nonzero().tolist()}
        around = [tuple(step * (axis == k) for k in range(mask.ndim)) for axis in range(mask.ndim) for step in (-1, 1)]
        edge = [p for p in inside if any(tuple(a + b for a, b in zip(p, s, strict=True)) not in inside for s in around)]
        return np.array(edge) * np.array(sample.spacing)

    hd95, assd = (METRICS.get(name).score(sample) for name in ("hd95", "assd"))
    for k in range(len(CLASSES)):
        predicted, true = boundary(sample.prediction[k]), boundary(sample.truth[k])
        apart = np.sqrt(((predicted[:, None] - true[None]) ** 2).sum(-1))
        to_true, to_predicted = apart.min(1), apart.min(0)
        assert hd95[k] == pytest.approx(max(np.percentile(to_true, 95), np.percentile(to_predicted, 95)))
        assert assd[k] == pytest.approx(np.concatenate([to_true, to_predicted]).mean())


def test_the_vertical_cup_to_disc_ratio_is_of_heights_nested_or_not():
    disc, cup = torch.zeros(2, 64, 64, dtype=torch.bool)
    disc[10:50, 20:30], cup[20:30, 22:26] = True, True
    wide = cup.clone()
    wide[20:40, 24] = True
    metric = METRICS.get("vcdr")
    nested = Sample(torch.stack([disc, wide]), torch.stack([disc, cup]), ("disc", "cup"))
    assert metric.score(nested) == [pytest.approx(20 / 40 - 10 / 40)]
    apart = Sample(torch.stack([disc & ~wide, wide]), torch.stack([disc & ~cup, cup]), ("rim", "cup"))
    assert metric.score(apart) == metric.score(nested)
    assert metric.lacks(("disc", "cup")) is metric.lacks(("cup", "rim")) is None
    with pytest.raises(UserError, match=r"metrics=vcdr compares the classes disc and cup, or rim and cup, which"):
        check(quote_lists(["+method=tent", "metrics=[vcdr]", "data.classes={cup: [2]}"], False))


@pytest.mark.parametrize("name", PER_MASK)
def test_called_on_masks_it_keeps_leading_dimensions(name, sample):
    metric = METRICS.get(name)
    values = metric(*(torch.stack([each, each]) for each in (sample.prediction, sample.truth)), sample.spacing)
    assert (values.dtype, values.tolist()) == (torch.float64, [metric.score(sample)] * 2)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool), "must be bool, not torch.float32"),
        (torch.zeros(2, 2, dtype=torch.bool), torch.zeros(1, 2, 2, dtype=torch.bool), r"shapes differ: \[2, 2\]"),
    ],
)
def test_masks_that_would_broadcast_or_overflow_are_refused(prediction, truth, message):
    with pytest.raises(ValueError, match=message):
        dice_score(prediction, truth)


def test_a_metric_that_returns_something_else_and_absent_probabilities_are_refused(monkeypatch, sample):
    without = Sample(sample.prediction, sample.truth, CLASSES, sample.spacing)
    with pytest.raises(ValueError, match="ece is of probabilities, which are not there"):
        METRICS.get("ece").score(without)
    monkeypatch.setattr(base, "METRICS", Registry("metric", "nowhere"))
    metric = register_metric("tensor", "%", direction="higher", range=(0, 1))(lambda p, t: (p & t).float().mean())
    with pytest.raises(ValueError, match="tensor returns Tensor where a float is due"):
        metric.score(without)


@pytest.mark.parametrize("name", ["surface_dice", "HD95", "", "95hd", "a b"])
def test_a_name_that_could_be_a_column_of_another_metric_is_refused(name):
    with pytest.raises(ValueError, match=re.escape(f"unlike '{name}'")):
        register_metric(name, "px", direction="lower", range=(0, math.inf))


def test_dice_is_always_there_and_first():
    def asked_for(*names):
        return check(["+method=tent", *([f"metrics=[{','.join(names)}]"] if names else [])])[0].metrics

    assert asked_for("iou") == asked_for("iou", "dice") == asked_for("dice", "iou") == ("dice", "iou")
    assert asked_for() == ("dice",)
    with pytest.raises(UserError, match=r"unknown metrics=iuo: did you mean 'iou'\?"):
        asked_for("iuo")
