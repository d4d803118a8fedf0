"""Training of a network that runs twice (:mod:`tta_bench.models.catenorm`): two steps of the optimiser per batch."""

from __future__ import annotations

import torch
from torch import Tensor

from tta_bench.models.segmentation import SegmentationModel
from tta_bench.ops.probabilities import probabilities
from tta_bench.runtime.training_section import TrainingConfig
from tta_bench.source.module import SourceTraining

WARM_UP = 0.5
"""Fraction of the epochs in which the first pass alone is trained: the paper begins with a network that has learnt."""

LARGEST_GRADIENT = 0.1
"""Of a parameter in the second step; from the authors' code."""


class TwoPassTraining(SourceTraining):
    """The first pass learns, then the second one, with what the first has predicted and the weights it has left.

    Branches learn with the second pass, which is what they see later.

    Args:
        model: the network.
        training: optimiser, schedule and seed.
    """

    def __init__(self, model: SegmentationModel, training: TrainingConfig) -> None:
        super().__init__(model, training)
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Both steps; returns the loss of the last one. See the base class."""
        self.draw_for(batch_idx)
        images, labels = self.shown(*batch)
        loss, logits = self._learn(images, labels)
        assert self.trainer.max_epochs is not None
        if self.current_epoch >= int(WARM_UP * self.trainer.max_epochs):
            loss, _ = self._learn(images, labels, probabilities(logits.float(), self.model.activation), batch[0])
        return loss

    def _learn(
        self, images: Tensor, labels: Tensor, prediction: Tensor | None = None, plain: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """A step of the optimiser; its loss and the logits before it, both without a graph."""
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        with self._precision(images):
            logits = self.model.one_pass(images.contiguous(memory_format=torch.channels_last), prediction)
        loss = self.segmentation(logits, labels)
        if plain is not None:
            loss = self.with_branches(loss, plain)
        self.check(loss)
        optimizer.zero_grad()
        self.manual_backward(loss)
        if prediction is not None:
            torch.nn.utils.clip_grad_value_(self.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        return loss.detach(), logits.detach()
