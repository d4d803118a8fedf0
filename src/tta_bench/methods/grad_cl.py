"""Grad-CL image by image, our reconstruction: refined pseudo-labels and apart classes (Thakur et al., BMVC 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor

from tta_bench.methods.base import Card, Diagnostics, GradientMethod, GradientOptions, register_method
from tta_bench.methods.sar import masked_mean
from tta_bench.methods.space import Tuned
from tta_bench.objectives.base import BoundNetwork
from tta_bench.ops.class_features import Salience, class_features, contrast
from tta_bench.ops.draws import Draws
from tta_bench.ops.probabilities import log_odds
from tta_bench.ops.pseudo_labels import Beliefs, Trusted, beliefs, trusted_labels
from tta_bench.ops.views import fitting_views, undo_weak_views, weak_views
from tta_bench.runtime.ranges import Fraction, NonNegative, Positive


@dataclass(frozen=True)
class GradCLOptions(GradientOptions):
    """Options of Grad-CL.

    Attributes:
        salience: what a feature map is weighted by for each class, see
            :data:`~tta_bench.ops.class_features.Salience`.
        lam_con: weight of the contrast between classes.
        temperature: divides the logits before their spread over the views is taken.
        threshold: probability from which on a pixel belongs to a class.
        largest_uncertainty: spread below which a pixel is reliable.
    """

    salience: Salience
    lam_con: Annotated[NonNegative, Tuned(0.01, 10, log=True)]
    temperature: Positive
    threshold: Annotated[Fraction, Tuned(0.5, 0.95)]
    largest_uncertainty: Annotated[Positive, Tuned(0.01, 0.5, log=True)]


@register_method("grad_cl")
class GradCL(GradientMethod):
    """One step on pseudo-labels that all views and the nearest prototype confirm, and on what classes share."""

    card = Card(
        adapts="affine parameters of normalisation",
        statistics="test image",
        needs_source_statistics=False,
        forwards=8,
        backwards=1,
        paper="Thakur et al., BMVC 2025",
        licence="not published",
        reconstruction="our reconstruction: all formulas are ours or DPL's",
        per_stream=("learning_rate", "lam_con"),
    )
    Options = GradCLOptions

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """``theta <- theta - lr * Adam(grad (masked cross-entropy + lam_con * contrast))``."""
        options, theta = self.options, self.theta(len(images))
        believed = self._believed(images, theta)
        found: list[tuple[Trusted, Tensor, Tensor]] = []

        def objective(network: BoundNetwork) -> Tensor:
            logits, late = network.network.logits_and_late_map(images, network.theta, network.statistics)
            odds = log_odds(logits, network.activation)
            features = class_features(late, odds, options.salience)
            trusted = trusted_labels(
                believed,
                features.detach(),
                threshold=options.threshold,
                largest_uncertainty=options.largest_uncertainty,
                per_image=True,
            )
            entropies = F.binary_cross_entropy_with_logits(odds, trusted.labels.to(odds), reduction="none")
            segmentation = masked_mean(entropies.flatten(1), trusted.mask.flatten(1))
            shared = contrast(features, trusted)
            found.append((trusted, segmentation.detach(), shared.detach()))
            return segmentation + self.option("lam_con", shared) * shared

        losses, gradient = self.gradient(objective, theta)
        trusted, segmentation, shared = found[-1]
        rate = self.each("learning_rate", losses)
        # Without a trusted pixel there is nothing to learn from: moments and momentum must not move either.
        empty = losses.isfinite() & ~trusted.mask.flatten(1).any(1)
        left_out = self.state.step(gradient, rate, losses.masked_fill(empty, math.nan))
        return {
            "loss_pseudo_labels": segmentation,
            "loss_contrast": shared,
            "trusted": trusted.mask.to(losses).flatten(1).mean(1),
            "lr": rate,
            "skipped": left_out & ~empty,
        }

    def _believed(self, images: Tensor, theta: Tensor) -> Beliefs:
        """What the weak views say of each pixel, as stochastic passes do of a network with dropout."""
        views = fitting_views(images)
        logits = undo_weak_views(self.network(weak_views(images, views), theta, self.statistics), views)
        return beliefs(log_odds(logits, self.network.activation).transpose(0, 1), self.options.temperature)
