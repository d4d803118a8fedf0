"""Scores every prediction; the runner and the method see no labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytorch_lightning as pl

from tta_bench.data.domain import Domain
from tta_bench.data.streams import ImageBatch
from tta_bench.methods.base import StepResult
from tta_bench.metrics.base import METRICS, EmptyRule, Sample
from tta_bench.ops.masks import Finish
from tta_bench.ops.probabilities import probabilities
from tta_bench.records.predictions import Predictions
from tta_bench.records.scores import ImageRecord, spacing_of


class Scoring(pl.Callback):
    """Compares with the labels, once an image has been predicted.

    Args:
        domains: the prepared targets.
        finish: what makes masks of logits.
        metrics: names of those to score with.
        records: of the images before, if a run goes on.
        empty: the rule for classes without a pixel, see :meth:`tta_bench.metrics.base.Metric.score`.
    """

    def __init__(
        self,
        domains: Mapping[str, Domain],
        finish: Finish,
        metrics: Sequence[str],
        records: Sequence[ImageRecord] = (),
        empty: EmptyRule = "one",
    ) -> None:
        self.domains = domains
        self.metrics = {name: METRICS.get(name) for name in metrics}
        self.spaced = all(domain.spaced for domain in domains.values())
        self.finish = finish
        self.empty: EmptyRule = empty
        self.records = list(records)
        """One per image; streams in the order of their groups, side by side within a group."""
        self.before = 0
        """How many of them there were when the present group began."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note where the group begins."""
        self.before = len(self.records)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The group is not finished, and may begin again."""
        del self.records[self.before :]

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
        graded = not all(metric.from_predictions for metric in self.metrics.values())
        for row, place in enumerate(batch.places):
            domain = self.domains[place.domain]
            diagnostics = {name: float(values[row // per_stream]) for name, values in outputs.diagnostics.items()}
            image = domain.restored(logits[row].cpu(), place.index)
            found, truth, classes = self.finish(image), domain.truth(place.index), tuple(domain.classes)
            # Without the background of a softmax.
            chances = probabilities(image, self.finish.activation)[-len(classes) :] if graded else None
            spacing = spacing_of(domain, place.index, self.spaced)[1:]
            sample = Sample(found, truth, classes, spacing, chances)
            skipped = outputs.skipped[row // per_stream] if outputs.skipped and row % per_stream == 0 else 0
            scores = {name: metric.score(sample, self.empty) for name, metric in self.metrics.items()}
            prediction = Predictions.of([found.numpy()])
            self.records.append(
                ImageRecord(place, scores, prediction, diagnostics, outputs.seconds, sample.emptiness(), skipped)
            )
