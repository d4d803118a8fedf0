"""How far the vertical cup-to-disc ratio is from the true one; ophthalmologists read glaucoma from it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from tta_bench.metrics.base import register_metric


@register_metric(
    "vcdr",
    "",
    direction="lower",
    range=(0, 1),
    of="classes",
    title="VCDR error",
    needs=(("disc", "cup"), ("rim", "cup")),
)
def vcdr_error(prediction: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> float:
    """Absolute error of the vertical cup-to-disc ratio: height of the cup in parts of that of the disc, at most 1."""
    return abs(_ratio(prediction) - _ratio(truth))


def _ratio(masks: Mapping[str, Tensor]) -> float:
    """NaN without a disc; a rim and its cup are one."""
    disc = _height(masks["disc"] if "disc" in masks else masks["rim"] | masks["cup"])
    return min(1.0, _height(masks["cup"]) / disc) if disc else math.nan


def _height(mask: Tensor) -> int:
    """Rows from the first to the last one with a pixel."""
    rows = mask.any(-1).reshape(-1, mask.shape[-2]).any(0).nonzero()
    return int(rows[-1] - rows[0]) + 1 if len(rows) else 0
