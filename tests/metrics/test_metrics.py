"""Laws of every metric, and what a registered one is asked for."""

import re

import pytest
import torch

from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.metrics import base
from tta_bench.metrics.base import METRICS, register_metric
from tta_bench.metrics.dice import dice_score
from tta_bench.registry import Registry


@pytest.fixture
def masks():
    """Pairs ``[2, 3, 20, 30]`` of unequal masks, some of them empty."""
    prediction, truth = torch.rand(2, 2, 3, 20, 30, generator=torch.Generator().manual_seed(0)) < 0.4
    prediction[0, 0], truth[0, 1], prediction[1, 2], truth[1, 2] = False, False, False, False
    return prediction, truth


@pytest.mark.parametrize("name", METRICS.names())
def test_a_metric_is_a_pure_function_of_one_mask_and_its_truth(name, masks):
    metric, (prediction, truth) = METRICS.get(name), masks
    before = prediction.clone(), truth.clone()
    values = metric(prediction, truth)
    assert (values.dtype, values.shape) == (torch.float64, (2, 3))
    assert torch.equal(values, metric(prediction, truth))
    assert torch.equal(prediction, before[0])
    assert torch.equal(truth, before[1])
    alone = [[metric(prediction[i, k], truth[i, k]).item() for k in range(3)] for i in range(2)]
    assert values.tolist() == alone


@pytest.mark.parametrize("name", METRICS.names())
def test_no_prediction_is_better_than_the_truth(name, masks):
    metric, (prediction, truth) = METRICS.get(name), masks
    whole, found = metric(truth, truth), metric(prediction, truth)
    assert (whole >= found if metric.higher_is_better else whole <= found).all()


def test_intersection_over_union_is_a_function_of_dice_where_there_is_a_mask(masks):
    dice, iou = (METRICS.get(name)(*masks) / 100 for name in ("dice", "iou"))
    assert iou == pytest.approx(dice / (2 - dice), abs=1e-6)
    assert (iou[1, 2], dice[1, 2]) == (1, 1), "two empty masks"


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


def test_a_metric_that_returns_something_else_is_refused(monkeypatch, masks):
    monkeypatch.setattr(base, "METRICS", Registry("metric", "nowhere"))
    for name, function in {
        "single": lambda p, t: (p & t).float().mean((-2, -1)),
        "one": lambda p, t: p.double().mean(),
    }.items():
        metric = register_metric(name, "%", higher_is_better=True)(function)
        with pytest.raises(ValueError, match=rf"{name} returns torch.float\d\d \[.*\] of masks \[2, 3, 20, 30\]"):
            metric(*masks)


@pytest.mark.parametrize("name", ["surface_dice", "HD95", "", "95hd", "a b"])
def test_a_name_that_could_be_a_column_of_another_metric_is_refused(name):
    with pytest.raises(ValueError, match=re.escape(f"unlike '{name}'")):
        register_metric(name, "px", higher_is_better=False)


def test_dice_is_always_there_and_first():
    def asked_for(*names):
        return check(["+method=tent", *([f"metrics=[{','.join(names)}]"] if names else [])])[0].metrics

    assert asked_for("iou") == asked_for("iou", "dice") == asked_for("dice", "iou") == ("dice", "iou")
    assert asked_for() == ("dice",)
    with pytest.raises(UserError, match=r"unknown metrics=iuo: did you mean 'iou'\?"):
        asked_for("iuo")
