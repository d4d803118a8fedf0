"""Scores every prediction; the runner and the method see no labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor

from tta_bench.data.domain import Domain
from tta_bench.data.streams import ImageBatch, StreamImage
from tta_bench.methods.base import StepResult
from tta_bench.metrics.base import METRICS
from tta_bench.ops.probabilities import Activation, masks
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
    """

    def __init__(
        self,
        domains: Mapping[str, Domain],
        threshold: float,
        metrics: Sequence[str],
        records: Sequence[ImageRecord] = (),
        activation: Activation = "sigmoid",
    ) -> None:
        self.domains = domains
        self.metrics = {name: METRICS.get(name) for name in metrics}
        self.threshold = threshold
        self.activation = activation
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
        scores = {name: metric(predictions, labels).tolist() for name, metric in self.metrics.items()}
        per_stream = len(predictions) // len(batch.images)
        for row, place in enumerate(batch.places):
            diagnostics = {name: float(values[row // per_stream]) for name, values in outputs.diagnostics.items()}
            prediction = Predictions.of([predictions[row].numpy()])
            of_image = {name: values[row] for name, values in scores.items()}
            self.records.append(ImageRecord(place, of_image, prediction, diagnostics, outputs.seconds))
