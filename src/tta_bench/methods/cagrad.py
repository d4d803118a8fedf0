"""CAGrad: a direction near the mean of two gradients that helps the worse one (Liu et al., NeurIPS 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

from tta_bench.methods.base import Card, register_method
from tta_bench.methods.space import Tuned
from tta_bench.methods.two_objectives import CombinedGradientsMethod, TwoObjectivesOptions
from tta_bench.ops.gradients import cagrad
from tta_bench.runtime.ranges import NonNegative


@dataclass(frozen=True)
class CAGradOptions(TwoObjectivesOptions):
    """Options of CAGrad.

    Attributes:
        radius: c in the paper: how far from the mean gradient, relative to its length.
        rescale: divide the result by ``1 + c^2``, by ``1 + c``, or not at all.
    """

    radius: Annotated[NonNegative, Tuned(0.05, 1)]
    rescale: Literal["none", "square", "linear"]


@register_method("cagrad")
class CAGrad(CombinedGradientsMethod):
    """One step along the conflict-averse direction of consistency and entropy."""

    card = Card(
        adapts="affine parameters of normalisation",
        statistics="test image",
        needs_source_statistics=False,
        forwards=9,
        backwards=2,
        paper="Liu et al., NeurIPS 2021",
        licence="MIT",
        stochastic=True,
        needs_unit_range=True,
        per_stream=("learning_rate",),
    )
    Options = CAGradOptions

    def combine(self, pseudo: Tensor, auxiliary: Tensor) -> Tensor:
        """The conflict-averse direction, rescaled."""
        c = self.options.radius
        return cagrad(pseudo, auxiliary, c) / {"none": 1, "square": 1 + c**2, "linear": 1 + c}[self.options.rescale]
