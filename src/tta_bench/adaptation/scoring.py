"""Scores every prediction; the runner and the method see no labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytorch_lightning as pl

from tta_bench.data.domain import Domain
from tta_bench.data.streams import ImageBatch
from tta_bench.methods.base import StepResult
from tta_bench.metrics.base import METRICS
from tta_bench.ops.masks import Finish
from tta_bench.records.predictions import Predictions
from tta_bench.records.scores import ImageRecord


class Scoring(pl.Callback):
    """Compares with the labels, once an image has been predicted.

    Args:
        domains: the prepared targets.
        finish: what makes masks of logits.
        metrics: names of those to score with.
        records: of the images before, if a run goes on.
    """

    def __init__(
        self,
        domains: Mapping[str, Domain],
        finish: Finish,
        metrics: Sequence[str],
        records: Sequence[ImageRecord] = (),
    ) -> None:
        self.domains = domains
        self.metrics = {name: METRICS.get(name) for name in metrics}
        self.finish = finish
        self.records = list(records)
        """One per image; streams in the order of their groups, side by side within a group."""

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: StepResult,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Score the prediction of each image."""
        # One image at a time, and on the host, as a user's own images: masks as stored may be large.
        logits = outputs.logits.flatten(0, -4)
        per_stream = len(logits) // len(batch.images)
        for row, place in enumerate(batch.places):
            domain = self.domains[place.domain]
            diagnostics = {name: float(values[row // per_stream]) for name, values in outputs.diagnostics.items()}
            found, truth = self.finish(domain.restored(logits[row].cpu(), place.index)), domain.truth(place.index)
            scores = {name: metric(found, truth).tolist() for name, metric in self.metrics.items()}
            prediction = Predictions.of([found.numpy()])
            self.records.append(ImageRecord(place, scores, prediction, diagnostics, outputs.seconds))
