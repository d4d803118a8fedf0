"""What looks on while a source model is trained: a progress bar, and a checkpoint to go on from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from tta_bench.runtime.files import replacing

EPOCH = "last.epoch"
"""File beside a model that is being trained, JSON: ``source``, training ``seed``, finished ``epoch`` and ``epochs``."""

_PARTIAL_SECONDS = 10.0  # between two partial checkpoints: at most this much work is lost


class PartialCheckpoint(pl.Callback):
    """Keeps the state after a finished epoch, at most every few seconds, to resume a killed training.

    Args:
        path: the file, replaced each time.
        source: name of the domain, and
        seed: of the training, for whoever looks how far it is.
    """

    def __init__(self, path: Path, source: str, seed: int) -> None:
        self.path = path
        self.trained = {"source": source, "seed": seed}
        self._saved = monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell how far it is, and save if it is time; after the last epoch the finished model follows at once."""
        with suppress(OSError):  # nobody needs to know
            reached = {"epoch": trainer.current_epoch + 1, "epochs": trainer.max_epochs}
            self.path.with_name(EPOCH).write_text(json.dumps(self.trained | reached))
        last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop
        if last or monotonic() - self._saved < _PARTIAL_SECONDS:
            return
        with replacing(self.path) as temporary:
            trainer.save_checkpoint(temporary)
        self._saved = monotonic()


class HeldOutScores(pl.Callback):
    """Scores the model after every epoch, keeps the best one if asked to, and stops once none has been better.

    Args:
        score: measures the model as it is, and leaves it so; empty where no image is held out.
        keep_best: whether the weights of the best epoch are wanted, the first of equals.
        patience: epochs without a better one after which the training ends; None for never.
        least_steps: optimiser steps before which it does not end.

    Attributes:
        values: of the last epoch.
        best: state dict of the network in the best epoch, on the CPU; None where it is not wanted.
        best_epoch: counted from 1.
    """

    def __init__(
        self, score: Callable[[], dict[str, float]], *, keep_best: bool, patience: int | None, least_steps: int
    ) -> None:
        self.score = score
        self.keep_best = keep_best
        self.patience = patience
        self.least_steps = least_steps
        self.values: dict[str, float] = {}
        self.best: dict[str, Tensor] | None = None
        self.best_epoch = 0
        self._best_dice = -1.0

    @property
    def decides(self) -> bool:
        """Whether the source model depends on it."""
        return self.keep_best or self.patience is not None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score, and compare with the best."""
        self.values = self.score()
        if not self.decides:
            return
        epoch, dice = trainer.current_epoch + 1, self.values["held_out_dice"]
        if dice > self._best_dice:
            self._best_dice, self.best_epoch = dice, epoch
            if self.keep_best:
                state = pl_module.get_submodule("model").state_dict()
                self.best = {key: value.detach().cpu().clone() for key, value in state.items()}
        waited = self.patience is not None and epoch - self.best_epoch >= self.patience
        if waited and trainer.global_step >= self.least_steps:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """For the partial checkpoint."""
        return {"best": self.best, "best_epoch": self.best_epoch, "best_dice": self._best_dice}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called once a training goes on."""
        self.best, self.best_epoch = state_dict["best"], state_dict["best_epoch"]
        self._best_dice = state_dict["best_dice"]


class ToldEpochs(pl.Callback):
    """Tells of every finished epoch; those before an interruption are kept in the checkpoint, and told again.

    Args:
        tell: what is done with the number of an epoch, from 1, and its values.
        score: measures the model as it is, and leaves it so.
    """

    def __init__(self, tell: Callable[[int, Mapping[str, float]], None], score: Callable[[], dict[str, float]]) -> None:
        self.tell = tell
        self.score = score
        self._told: list[dict[str, float]] = []
        self._losses: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss, where it is: nothing waits for a device."""
        self._losses.append(outputs["loss"].detach())

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Mean loss, learning rate and what is scored."""
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        loss = float(torch.stack(self._losses).mean())
        self._losses = []
        self._told.append({"loss": loss, "lr": rate, **self.score()})
        self.tell(trainer.current_epoch + 1, self._told[-1])

    def state_dict(self) -> dict[str, Any]:
        """For the partial checkpoint."""
        return {"told": self._told}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called once a training goes on."""
        self._told = list(state_dict["told"])
        for epoch, values in enumerate(self._told, 1):
            self.tell(epoch, values)


class ProgressBar(pl.Callback):
    """One bar for the whole training, with epoch and loss.

    Args:
        domain: named in front of the bar.
    """

    def __init__(self, domain: str) -> None:
        self._bar = Progress(
            TextColumn(f"source model {domain}: epoch {{task.fields[epoch]}}, loss {{task.fields[loss]}}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._task = TaskID(0)
        self._losses: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, at the batch that a resumed training has reached."""
        batches = int(trainer.num_training_batches)
        steps, done = batches * (trainer.max_epochs or 0), batches * trainer.current_epoch
        self._task = self._bar.add_task("", total=steps, completed=done, epoch="-", loss="-")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance, with the mean loss of the epoch so far."""
        self._losses = [*self._losses, float(outputs["loss"])] if batch_idx else [float(outputs["loss"])]
        self._bar.update(
            self._task,
            completed=int(trainer.num_training_batches) * trainer.current_epoch + batch_idx + 1,
            epoch=f"{trainer.current_epoch + 1}/{trainer.max_epochs}",
            loss=f"{np.mean(self._losses):.3f}",
        )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The same, for Lightning tears down nothing then."""
        self._bar.stop()
