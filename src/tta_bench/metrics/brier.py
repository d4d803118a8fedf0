"""How far predicted probabilities are from the truth."""

from __future__ import annotations

from torch import Tensor

from tta_bench.metrics.base import register_metric


@register_metric("brier", "", direction="lower", range=(0, 1), of="probabilities", title="Brier score")
def brier_score(probability: Tensor, truth: Tensor) -> float:
    """Brier score of a class: the mean over the pixels of ``(p - g)²``, g being 1 where the class is true, else 0."""
    return float((probability.double() - truth.double()).square().mean().item())
