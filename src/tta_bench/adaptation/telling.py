"""Tells of each image once it is scored: a dashboard, for instance, that follows a run live."""

from __future__ import annotations

from collections.abc import Callable

import pytorch_lightning as pl

from tta_bench.adaptation.scoring import Scoring
from tta_bench.data.streams import ImageBatch, StreamImage
from tta_bench.methods.step_result import StepResult
from tta_bench.records.scores import ImageRecord


class Telling(pl.Callback):
    """Looks on, after the scoring; what a run before has scored is told first.

    Args:
        scoring: whose records are told.
        tell: what is done with each record; must not wait.
    """

    def __init__(self, scoring: Scoring, tell: Callable[[ImageRecord], None]) -> None:
        self.scoring = scoring
        self.tell = tell
        self._told: set[StreamImage] = set()
        self._next = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The records of a group that begins again are gone."""
        self._next = 0

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: StepResult,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Tell what was not told yet: streams that begin again come by the same images."""
        for record in self.scoring.records[self._next :]:
            if record.place not in self._told:
                self._told.add(record.place)
                self.tell(record)
        self._next = len(self.scoring.records)
