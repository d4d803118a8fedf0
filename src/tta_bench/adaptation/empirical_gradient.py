"""How the gradient that a method follows agrees with that of the labels (Figure 4 of the GraTa paper).

This is the only place where labels meet a gradient. Nothing here reaches the method: its predictions are the same
bits with and without this callback.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.adaptation.counters import Counters
from tta_bench.data.domain import Domain
from tta_bench.data.streams import ImageBatch
from tta_bench.methods.base import Method
from tta_bench.methods.step_result import StepResult
from tta_bench.ops.gradients import gradient_cosine
from tta_bench.ops.probabilities import cross_entropies, targets
from tta_bench.runtime.transfer import sent

COLUMN = "cosine_empirical"
"""Of ``per_image.csv``: cosine in [-1, 1] between the followed and the empirical gradient; NaN for a skipped update."""


def empirical_gradient(method: Method, images: Tensor, labels: Tensor, theta: Tensor) -> Tensor | None:
    """Gradient of the supervised cross-entropy, the mean over pixels; binary, and over classes, under sigmoids.

    Args:
        method: says which coordinates the gradient is taken in; its counters stay as they are.
        images: ``[A, 3, H, W]`` in [0, 1].
        labels: bool ``[A, classes, H, W]``.
        theta: ``[A, scalars]``, where the gradient is taken.

    Returns:
        ``[A, scalars]``; None, at no cost, of a method that follows no gradient of the network's parameters.
    """
    counters = Counters.of(method)

    activation = method.network.activation
    truth = targets(labels, activation).to(images)

    def supervised(logits: Tensor) -> Tensor:
        if activation == "softmax":
            return cross_entropies(logits, truth, activation).flatten(1).mean(1)
        losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        return losses.flatten(1).mean(1)

    gradient = method.gradient_as_followed(supervised, images, theta)
    counters.give(method)
    return gradient


class EmpiricalGradient(pl.Callback):
    """Adds :data:`COLUMN` to the diagnostics of a method that follows one gradient per image; of others, nothing.

    Args:
        method: with at most one update per image, and one image of a stream at a time.
        domains: the prepared targets, with the labels.
    """

    def __init__(self, method: Method, domains: Mapping[str, Domain]) -> None:
        self.method = method
        self.domains = domains
        self._gradient: Tensor | None = None

    def on_test_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the gradient of the labels at the state before the update."""
        theta = self.method.theta_before_update(len(batch.images))
        labels = torch.stack([self.domains[place.domain].label(place.index) for place in batch.places])
        self._gradient = empirical_gradient(self.method, batch.images, sent(labels, batch.images.device), theta)

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: StepResult,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Compare with the gradient that the update followed."""
        if self._gradient is None:
            return
        followed = self.method.followed_gradient(len(batch.images))
        cosines = torch.where(followed.isfinite().all(1), gradient_cosine(followed, self._gradient), torch.nan)
        outputs.diagnostics[COLUMN] = cosines.tolist()
