"""PCGrad: gradient surgery between entropy and consistency (Yu et al., NeurIPS 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tta_bench.methods.base import Card, register_method
from tta_bench.methods.two_objectives import CombinedGradientsMethod, TwoObjectivesOptions
from tta_bench.ops.gradients import pcgrad


@dataclass(frozen=True)
class PCGradOptions(TwoObjectivesOptions):
    """Options of PCGrad.

    Attributes:
        reduction: whether the two projected gradients are added or averaged.
    """

    reduction: Literal["sum", "mean"]


@register_method("pcgrad")
class PCGrad(CombinedGradientsMethod):
    """Each of the two gradients loses what opposes the other; then both are added."""

    card = Card(
        adapts="affine parameters of normalisation",
        statistics="test image",
        needs_source_statistics=False,
        forwards=9,
        backwards=2,
        paper="Yu et al., NeurIPS 2020",
        licence="MIT",
        stochastic=True,
        needs_unit_range=True,
        per_stream=("learning_rate",),
    )
    Options = PCGradOptions

    def combine(self, pseudo: Tensor, auxiliary: Tensor) -> Tensor:
        """Both gradients without their conflicts, added or averaged."""
        total = torch.stack(pcgrad(pseudo, auxiliary)).sum(0)
        return total if self.options.reduction == "sum" else total / 2
