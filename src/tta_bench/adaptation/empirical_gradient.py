"""How the gradient that a method follows agrees with that of the labels (Figure 4 of the GraTa paper).

This is the only place where labels meet a gradient. Nothing here reaches the method: its predictions are the same
bits with and without this callback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.methods.base import TTACallback
from tta_bench.ops.gradients import gradient_cosine

if TYPE_CHECKING:
    from tta_bench.adaptation.runner import AdaptationModule, UnlabelledBatch

COLUMN = "cosine_empirical"
"""Of ``per_image.csv``: cosine in [-1, 1] between the followed and the empirical gradient; NaN for a skipped update."""


def empirical_gradient(method: TTACallback, images: Tensor, labels: Tensor, theta: Tensor) -> Tensor | None:
    """Gradient of the supervised binary cross-entropy, the mean over pixels and classes.

    Args:
        method: says which coordinates the gradient is taken in; its counters stay as they are.
        images: ``[A, 3, H, W]`` in [0, 1].
        labels: bool ``[A, classes, H, W]``.
        theta: ``[A, scalars]``, where the gradient is taken.

    Returns:
        ``[A, scalars]``; None, at no cost, of a method that follows no gradient of the network's parameters.
    """
    counters = method.network.forwards, method.backwards

    def supervised(logits: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(logits, labels.to(images), reduction="none")
        return losses.flatten(1).mean(1)

    gradient = method.gradient_as_followed(supervised, images, theta)
    method.network.forwards, method.backwards = counters
    return gradient


class EmpiricalGradient(pl.Callback):
    """Adds :data:`COLUMN` to the records of a method that follows one gradient per image; of others, nothing.

    It has to stand before the method among the callbacks of a trainer, because it needs the state before the update.

    Args:
        method: with at most one update per image.
    """

    def __init__(self, method: TTACallback) -> None:
        self.method = method
        self._gradient: Tensor | None = None

    def on_test_batch_start(  # type: ignore[override]
        self,
        trainer: pl.Trainer,
        pl_module: AdaptationModule,
        batch: UnlabelledBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the gradient of the labels at the state before the update."""
        count, resets = len(batch.images), self.method.protocol.reset == "image"
        theta = self.method.source_theta.expand(count, -1) if resets else self.method.theta(count)
        assert pl_module.withheld is not None
        labels = pl_module.withheld.labels.to(batch.images.device)
        self._gradient = empirical_gradient(self.method, batch.images, labels, theta)

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: pl.Trainer,
        pl_module: AdaptationModule,
        outputs: Any,
        batch: UnlabelledBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Compare with the gradient that the update followed."""
        if self._gradient is None:
            return
        followed = self.method.followed_gradient(len(batch.images))
        cosines = torch.where(followed.isfinite().all(1), gradient_cosine(followed, self._gradient), torch.nan)
        for record, cosine in zip(pl_module.records[-len(batch.images) :], cosines.tolist(), strict=True):
            record.diagnostics[COLUMN] = cosine
