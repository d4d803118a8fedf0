"""Keeps snapshots of a run along its streams, and takes it up where the latest one left it."""

from __future__ import annotations

import pytorch_lightning as pl

from tta_bench.adaptation.scoring import Scoring
from tta_bench.data.streams import ImageBatch
from tta_bench.methods.base import Method, StepResult
from tta_bench.records.snapshots import Snapshot, SnapshotFile


class Resumption(pl.Callback):
    """Goes on from a snapshot, and keeps further ones; after the scoring.

    Args:
        file: of the snapshots.
        method: whose state they hold.
        scoring: whose records they hold.
        resumed: the snapshot to go on from.
        first: number of the first group of this method's, where others come before it.
    """

    def __init__(
        self, file: SnapshotFile, method: Method, scoring: Scoring, resumed: Snapshot | None, first: int = 0
    ) -> None:
        self.file = file
        self.method = method
        self.scoring = scoring
        self.resumed = resumed
        self.group, self.steps = (resumed.group, resumed.steps) if resumed is not None else (first, 0)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the fresh state that the method has just made."""
        if self.resumed is not None:
            self.method.load_state_dict(self.resumed.state)
            self.method.network.forwards = self.resumed.forwards
            self.resumed = None

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: StepResult,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a snapshot, but not after the group's last image: there would be nothing to go on with."""
        self.steps += len(batch.places) // len(batch.images)
        if batch_idx + 1 < trainer.num_test_batches[0]:
            self.file.keep(
                lambda: Snapshot(
                    self.group,
                    self.steps,
                    self.scoring.records,
                    self.method.state_dict(),
                    self.method.network.forwards,
                )
            )

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The next group begins with its first images."""
        self.group, self.steps = self.group + 1, 0
