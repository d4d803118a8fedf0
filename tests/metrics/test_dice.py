import pytest
import torch

from tta_bench.metrics.dice import dice_score


def test_equals_the_formula_worked_by_hand():
    prediction = torch.zeros(4, 4, dtype=torch.bool)
    truth = prediction.clone()
    prediction[0, :3] = True  # 3 pixels
    truth[0, 1:] = True  # 3 pixels, 2 in common
    expected = 100 * (4 + 1e-6) / (6 + 1e-6)
    assert dice_score(prediction, truth).item() == pytest.approx(expected, abs=1e-12)


def test_two_empty_masks_score_100_and_one_empty_mask_practically_0():
    empty = torch.zeros(40, 40, dtype=torch.bool)
    thousand = empty.clone()
    thousand[:25] = True
    assert dice_score(empty, empty).item() == 100
    assert dice_score(empty, thousand).item() == pytest.approx(1e-7, rel=1e-6)


def test_keeps_leading_dimensions_and_counts_beyond_what_small_types_hold():
    prediction = torch.ones(2, 3, 600, 600, dtype=torch.bool)
    scores = dice_score(prediction, prediction)
    assert scores.shape == (2, 3)
    assert scores.dtype == torch.float64
    assert (scores == 100).all()
