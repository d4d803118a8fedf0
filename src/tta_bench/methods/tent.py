"""TENT: entropy minimisation over the affine parameters (Wang et al., ICLR 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tta_bench.methods.base import Card, Diagnostics, GradientMethod, GradientOptions, register_method
from tta_bench.objectives.entropy import EntropyForm, entropy
from tta_bench.ops.draws import Draws


@dataclass(frozen=True)
class TentOptions(GradientOptions):
    """Options of TENT.

    Attributes:
        entropy_form: ``positive`` as in the segmentation code of GraTa's authors, or ``binary``.
    """

    entropy_form: EntropyForm


@register_method("tent")
class Tent(GradientMethod):
    """One gradient step on the entropy of the prediction of each image."""

    card = Card(
        adapts="affine parameters of normalisation",
        statistics="test image",
        needs_source_statistics=False,
        forwards=2,
        backwards=1,
        paper="Wang et al., ICLR 2021",
        licence="MIT",
        per_stream=("learning_rate",),
    )
    Options = TentOptions

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """``theta <- theta - lr * Adam(grad entropy)``."""
        losses, gradient = self.gradient(
            lambda network: entropy(network, images, draws, entropy_form=self.options.entropy_form),
            self.theta(len(images)),
        )
        rate = self.each("learning_rate", losses)
        skipped = self.state.step(gradient, rate, losses)
        return {"loss_entropy": losses, "lr": rate, "skipped": skipped}
