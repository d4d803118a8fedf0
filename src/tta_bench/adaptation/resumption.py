"""Keeps snapshots of a run along its streams, and takes it up where the latest one left it."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl

from tta_bench.adaptation.counters import Counters
from tta_bench.adaptation.scoring import Scoring
from tta_bench.data.streams import ImageBatch, LockstepGroups
from tta_bench.methods.base import Method
from tta_bench.methods.step_result import StepResult
from tta_bench.records.snapshots import Snapshot, SnapshotFile


class Resumption(pl.Callback):
    """Goes on from a snapshot, and keeps further ones; after the scoring.

    Args:
        file: of the snapshots.
        method: whose state they hold.
        scoring: whose records they hold.
        groups: of the streams, of each part up to the present one.
        resumed: the snapshot to go on from.
    """

    def __init__(
        self,
        file: SnapshotFile,
        method: Method,
        scoring: Scoring,
        groups: Sequence[LockstepGroups],
        resumed: Snapshot | None = None,
    ) -> None:
        self.file = file
        self.method = method
        self.scoring = scoring
        self.groups = groups
        self.resumed = resumed
        if resumed is not None:
            groups[-1].go_on_from(resumed.groups[-1])
            del scoring.records[resumed.before :]
            Counters(*resumed.counters).give(method)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note where the group begins."""
        self._counters = list(Counters.of(self.method))
        self._present, self.resumed = self.resumed, None
        self.steps = 0

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the fresh state that the method has just made."""
        if (present := self._present) is not None:
            self.steps = present.steps
            self.scoring.records[:] = present.records
            self.method.load_state_dict(present.state)
            self.method.network.forwards = present.forwards

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
            self.file.keep(self._snapshot)

    def _snapshot(self) -> Snapshot:
        self.scoring.settle()  # the records are of as many images as the state
        return Snapshot(
            [list(each.sizes) for each in self.groups],
            self.steps,
            self.scoring.before,
            self._counters,
            self.scoring.records,
            self.method.state_dict(),
            self.method.network.forwards,
        )
