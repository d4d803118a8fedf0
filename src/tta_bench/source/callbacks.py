"""What looks on while a source model is trained: a progress bar, and a checkpoint to go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from tta_bench.runtime.files import replacing

_PARTIAL_SECONDS = 10.0  # between two partial checkpoints: at most this much work is lost


class PartialCheckpoint(pl.Callback):
    """Keeps the state after a finished epoch, at most every few seconds, to resume a killed training.

    Args:
        path: the file, replaced each time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._saved = monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is time; after the last epoch the finished model follows at once."""
        if monotonic() - self._saved < _PARTIAL_SECONDS or trainer.current_epoch + 1 == trainer.max_epochs:
            return
        with replacing(self.path) as temporary:
            trainer.save_checkpoint(temporary)
        self._saved = monotonic()


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
        """Show the bar, at the step that a resumed training has reached."""
        steps = int(trainer.num_training_batches) * (trainer.max_epochs or 0)
        self._task = self._bar.add_task("", total=steps, completed=trainer.global_step, epoch="-", loss="-")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance, with the mean loss of the epoch so far."""
        self._losses = [*self._losses, float(outputs["loss"])] if batch_idx else [float(outputs["loss"])]
        self._bar.update(
            self._task,
            completed=trainer.global_step,
            epoch=f"{trainer.current_epoch + 1}/{trainer.max_epochs}",
            loss=f"{np.mean(self._losses):.3f}",
        )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The same, for Lightning tears down nothing then."""
        self._bar.stop()
