"""GraTa: gradient alignment (Chen et al., AAAI 2025), Algorithm 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.methods.base import Card, Diagnostics, register_method
from tta_bench.methods.space import Tuned
from tta_bench.methods.two_objectives import TwoObjectivesMethod, TwoObjectivesOptions
from tta_bench.ops.draws import Draws
from tta_bench.ops.gradients import gradient_cosine
from tta_bench.runtime.ranges import NonNegative

LEARNING_RATE_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "square": lambda cosine: (cosine + 1).square() / 4,
    "linear": lambda cosine: (cosine + 1) / 2,
    "sigmoid": torch.sigmoid,
    "relu": F.relu,
    "softplus": F.softplus,
    "constant": torch.ones_like,
    "constant_quarter": lambda cosine: torch.full_like(cosine, 0.25),
}
"""Cosine -> factor of the learning rate (Table 4), and two controls that ignore the cosine."""


@dataclass(frozen=True)
class GraTaOptions(TwoObjectivesOptions):
    """Options of GraTa.

    Attributes:
        learning_rate_function: how the cosine scales the learning rate, see :data:`LEARNING_RATE_FUNCTIONS`.
        perturbation: size of the auxiliary descent step at whose end the pseudo gradient is taken; 0 for none.
    """

    learning_rate_function: Literal["square", "linear", "sigmoid", "relu", "softplus", "constant", "constant_quarter"]
    perturbation: Annotated[NonNegative, Tuned(0.01, 10, log=True)]


@register_method("grata")
class GraTa(TwoObjectivesMethod):
    """The pseudo gradient, taken one auxiliary step ahead, with a learning rate that follows their cosine."""

    card = Card(
        adapts="affine parameters of normalisation",
        statistics="test image",
        needs_source_statistics=False,
        forwards=9,
        backwards=2,
        paper="Chen et al., AAAI 2025",
        licence="MIT",
        stochastic=True,
        needs_unit_range=True,
        per_stream=("learning_rate", "learning_rate_function", "perturbation"),
    )
    Options = GraTaOptions

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """Lines 1-5 of Algorithm 1; the prediction (line 6) follows on the clean image."""
        theta = self.theta(len(images))
        auxiliary_loss, auxiliary_gradient = self.objective_gradient(self.options.auxiliary, images, draws, theta)
        perturbed = theta - self.option("perturbation", theta) * auxiliary_gradient
        pseudo_loss, pseudo_gradient = self.objective_gradient(self.options.pseudo, images, draws, perturbed)
        cosine = gradient_cosine(auxiliary_gradient, pseudo_gradient)
        factor = self.choice("learning_rate_function", LEARNING_RATE_FUNCTIONS, cosine)
        rate = self.option("learning_rate", cosine) * factor
        # The rate is scaled before Adam, whose moments see the unscaled gradient.
        skipped = self.state.step(pseudo_gradient, rate, auxiliary_loss + pseudo_loss)
        return {
            "loss_auxiliary": auxiliary_loss,
            "loss_pseudo": pseudo_loss,
            "cosine": cosine,
            "lr": rate,
            "skipped": skipped,
        }
