"""Source training as a LightningModule."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.ops.draws import seed_of
from tta_bench.ops.probabilities import divergences
from tta_bench.ops.stain import DRAWS, recoloured
from tta_bench.runtime.numerics import activation_dtype, in_precision
from tta_bench.runtime.training_section import TrainingConfig
from tta_bench.source.avagrad import AvaGrad
from tta_bench.source.loss import branch_loss, segmentation_loss


class SourceTraining(pl.LightningModule):
    """Supervised training of the network, with the self-supervised losses of its branches if it has any.

    Args:
        model: the network.
        training: optimiser, schedule and seed.
    """

    def __init__(self, model: SegmentationModel, training: TrainingConfig) -> None:
        super().__init__()
        # Channels last: the layout in which convolutions are fastest, on CPUs and GPUs.
        self.model = model.to(memory_format=torch.channels_last)
        self.training_config = training

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes, H, W]`` of images ``[N, 3, H, W]``."""
        return self.model(images.contiguous(memory_format=torch.channels_last))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of one batch: images ``[N, 3, H, W]``, labels bool ``[N, classes, H, W]``.

        Raises:
            UserError: the loss is not finite.
        """
        self.draw_for(batch_idx)
        images, labels = self.shown(*batch)
        with self._precision(images):
            logits = self(images)
        loss = self.with_branches(self.segmentation(logits, labels), batch[0])
        self.check(loss)
        return loss

    def draw_for(self, batch_idx: int) -> None:
        """Let colours, noise and rotations depend on epoch and batch alone, so that a resumed run draws the same."""
        torch.manual_seed(seed_of(self.training_config.seed, "batch", self.current_epoch, batch_idx))

    def shown(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What the network segments of a batch: its images, then recoloured copies if there are to be any."""
        if self.training_config.consistency is None:
            return images, labels
        copies = recoloured(images, torch.rand(len(images), DRAWS))
        return torch.cat([images, copies]), torch.cat([labels, labels])

    def segmentation(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of what :meth:`shown` gives, with the consistency of images and copies if there are any."""
        logits, activation = logits.float(), self.model.activation
        loss = segmentation_loss(logits, labels, activation)
        if self.training_config.consistency is not None:
            images, copies = logits.chunk(2)
            loss = loss + self.training_config.consistency * divergences(images, copies, activation).mean()
        return loss

    def with_branches(self, loss: Tensor, images: Tensor) -> Tensor:
        """A loss and those of the branches, weighted."""
        weights = self.training_config.branch_weights
        for name in self.model.branches:
            weight = weights.get(name, 1.0)  # of a plug-in's branch that of the segmentation loss
            with self._precision(images):
                loss = loss + weight * branch_loss(name, self.model, images)
        return loss

    def check(self, loss: Tensor) -> None:
        """Refuse to go on from a loss that is not finite.

        Raises:
            UserError: it is not.
        """
        if not torch.isfinite(loss):
            raise UserError(
                f"training the source model diverged in epoch {self.current_epoch + 1} (loss {loss.item()}): "
                f"lower training.learning_rate={self.training_config.learning_rate}"
            )

    def _precision(self, images: Tensor) -> AbstractContextManager[Any]:
        return in_precision(images.device, activation_dtype(self.training_config.precision or "f32", images.device))

    def on_train_epoch_start(self) -> None:
        """Set the learning rate, a function of the epoch alone: nothing to restore when a run resumes."""
        config, epochs = self.training_config, self.trainer.max_epochs
        assert epochs is not None
        rate = config.learning_rate * polynomial_decay(self.current_epoch, epochs, config.schedule_power)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD, Adam or AvaGrad, over all parameters."""
        config = self.training_config
        if config.optimizer == "avagrad":
            assert config.epsilon is not None
            assert config.bias_correction is not None
            return AvaGrad(
                self.parameters(),
                lr=config.learning_rate,
                eps=config.epsilon,
                weight_decay=config.weight_decay,
                bias_correction=config.bias_correction,
            )
        if config.optimizer == "adam":
            return torch.optim.Adam(self.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        return torch.optim.SGD(
            self.parameters(),
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )


def polynomial_decay(epoch: int, epochs: int, power: float) -> float:
    """Factor of the learning rate in an epoch counted from 0: ``(1 - epoch / epochs) ** power``."""
    return (1 - epoch / epochs) ** power
