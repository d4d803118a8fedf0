"""Scores every prediction; the runner and the method see no labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor

from tta_bench.data.domain import Domain
from tta_bench.data.streams import ImageBatch, StreamImage
from tta_bench.methods.base import StepResult
from tta_bench.metrics.base import METRICS, EmptyRule, Sample
from tta_bench.ops.probabilities import Activation, masks, probabilities
from tta_bench.records.predictions import Predictions
from tta_bench.records.scores import ImageRecord


def labels_of(domains: Mapping[str, Domain], places: Sequence[StreamImage]) -> Tensor:
    """The ground truth of images: bool ``[images, classes, size, size]``."""
    return torch.stack([domains[place.domain].label(place.index) for place in places])


class Scoring(pl.Callback):
    """Compares with the labels, once an image has been predicted.

    Args:
        domains: the prepared targets.
        threshold: probability from which a pixel belongs to a class, under a sigmoid.
        metrics: names of those to score with.
        records: of the images before, if a run goes on.
        activation: what the logits stand for.
        empty: the rule for classes without a pixel, see :meth:`tta_bench.metrics.base.Metric.score`.
    """

    def __init__(
        self,
        domains: Mapping[str, Domain],
        threshold: float,
        metrics: Sequence[str],
        records: Sequence[ImageRecord] = (),
        activation: Activation = "sigmoid",
        empty: EmptyRule = "one",
    ) -> None:
        self.domains = domains
        self.metrics = {name: METRICS.get(name) for name in metrics}
        self.threshold = threshold
        self.activation = activation
        self.empty: EmptyRule = empty
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
        predictions = masks(outputs.logits, self.activation, self.threshold).cpu().flatten(0, -4)
        labels = labels_of(self.domains, batch.places)
        chances = None
        if not all(metric.from_predictions for metric in self.metrics.values()):
            chances = probabilities(outputs.logits, self.activation).cpu().flatten(0, -4)
            chances = chances[:, chances.shape[1] - labels.shape[1] :]  # without the background of a softmax
        per_stream = len(predictions) // len(batch.images)
        for row, place in enumerate(batch.places):
            diagnostics = {name: float(values[row // per_stream]) for name, values in outputs.diagnostics.items()}
            prediction = Predictions.of([predictions[row].numpy()])
            classes = tuple(self.domains[place.domain].classes)
            of_image = None if chances is None else chances[row]
            sample = Sample(predictions[row], labels[row], classes, probabilities=of_image)
            scores = {name: metric.score(sample, self.empty) for name, metric in self.metrics.items()}
            record = ImageRecord(place, scores, prediction, diagnostics, outputs.seconds, sample.emptiness())
            self.records.append(record)
