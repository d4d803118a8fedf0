"""SAGM: sharpness-aware gradient matching on the consistency objective (Wang et al., CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from tta_bench.methods.base import Card, Diagnostics, GradientMethod, GradientOptions, register_method
from tta_bench.methods.space import Tuned
from tta_bench.objectives.base import BoundNetwork
from tta_bench.objectives.consistency import consistency
from tta_bench.ops.draws import Draws
from tta_bench.ops.views import StrongAugmentation
from tta_bench.runtime.ranges import LARGE, NonNegative, Range


@dataclass(frozen=True)
class SAGMOptions(GradientOptions):
    """Options of SAGM.

    Attributes:
        rho: length of the ascent step.
        alpha: how much of the gradient itself is taken off that step.
        strong_augmentation: operations of the strong view.
    """

    rho: Annotated[NonNegative, Tuned(0.005, 0.5, log=True)]
    alpha: Annotated[float, Range(-LARGE, LARGE)]
    strong_augmentation: StrongAugmentation


@register_method("sagm")
class SAGM(GradientMethod):
    """The mean of the gradients here and one small ascent step away, on the same strong view."""

    card = Card(
        adapts="affine parameters of normalisation",
        statistics="test image",
        needs_source_statistics=False,
        forwards=15,
        backwards=2,
        paper="Wang et al., CVPR 2023",
        licence="MIT",
        stochastic=True,
        needs_unit_range=True,
        per_stream=("learning_rate", "rho", "alpha"),
    )
    Options = SAGMOptions

    @classmethod
    def is_stochastic(cls, options: SAGMOptions) -> bool:
        """Whether the strong view is drawn."""
        return options.strong_augmentation.is_random

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """``g = (g0 + grad L(theta + (rho / |g0| - alpha) g0)) / 2``; one step from theta."""

        def objective(network: BoundNetwork) -> Tensor:
            return consistency(network, images, draws, strong_augmentation=self.options.strong_augmentation)

        theta = self.theta(len(images))
        losses, here = self.gradient(objective, theta)
        rho, alpha = self.option("rho", here), self.option("alpha", here)
        _, there = self.gradient(objective, theta + ascent(here, rho, alpha))
        rate = self.each("learning_rate", losses)
        skipped = self.state.step((here + there) / 2, rate, losses)
        return {"loss_pseudo": losses, "lr": rate, "skipped": skipped}


def ascent(gradient: Tensor, rho: float | Tensor, alpha: float | Tensor) -> Tensor:
    """``(rho / |g| - alpha) g`` for each row ``[A, scalars]``; zero for a zero gradient.

    Args:
        gradient: ``[A, scalars]``.
        rho: of all rows, or ``[A, 1]``.
        alpha: likewise.
    """
    norm = gradient.norm(dim=1, keepdim=True)
    return (rho / (norm + 1e-12) - alpha) * gradient
