"""A method: entropy of the most uncertain pixels alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tta_bench import register_method
from tta_bench.methods.base import Card, Diagnostics, GradientMethod, GradientOptions
from tta_bench.objectives.base import BoundNetwork
from tta_bench.ops.draws import Draws
from tta_bench.ops.probabilities import entropies


@dataclass(frozen=True)
class UncertainEntropyOptions(GradientOptions):
    """Options.

    Attributes:
        fraction: of the pixels, the most uncertain ones, that count.
    """

    fraction: float


@register_method("uncertain_entropy")
class UncertainEntropy(GradientMethod):
    """One gradient step on the mean entropy of the most uncertain pixels of each image."""

    card = Card(
        adapts="affine parameters of normalisation",
        statistics="test image",
        needs_source_statistics=False,
        forwards=2,
        backwards=1,
        paper="an example",
        licence="MIT",
    )
    Options = UncertainEntropyOptions

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """One step; the prediction follows by itself."""

        def objective(network: BoundNetwork) -> Tensor:
            entropy = entropies(network(images), network.activation).flatten(1)
            return entropy.topk(max(1, int(self.options.fraction * entropy.shape[1]))).values.mean(1)

        losses, gradient = self.gradient(objective, self.theta(len(images)))
        rate = torch.full_like(losses, self.options.learning_rate)
        skipped = self.state.step(gradient, rate, losses)
        return {"loss_entropy": losses, "lr": rate, "skipped": skipped}
