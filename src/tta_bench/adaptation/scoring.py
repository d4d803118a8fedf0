"""Scores every prediction; the runner and the method see no labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytorch_lightning as pl
from torch import Tensor

from tta_bench.data.domain import Domain
from tta_bench.data.streams import ImageBatch
from tta_bench.methods.step_result import StepResult
from tta_bench.metrics.base import METRICS, EmptyRule, Sample
from tta_bench.ops.masks import Finish
from tta_bench.ops.probabilities import probabilities
from tta_bench.records.predictions import Predictions
from tta_bench.records.scores import ImageRecord, spacing_of
from tta_bench.runtime.numerics import is_gpu
from tta_bench.runtime.transfer import fetched

BEHIND = 2
"""Batches that may wait to be scored while a GPU works on the next."""


class Scoring(pl.Callback):
    """Compares with the labels, once an image has been predicted; behind a GPU's work, in threads.

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
        self._pool = ThreadPoolExecutor(BEHIND, "scoring")
        self._waiting: deque[Future[list[ImageRecord]]] = deque()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note where the group begins."""
        self.before = len(self.records)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The group is not finished, and may begin again."""
        for future in self._waiting:
            future.cancel()
        wait(self._waiting)
        self._waiting.clear()
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
        """Score the prediction of each image, a few batches later on a GPU; after the last batch nothing waits."""
        logits = fetched(outputs.logits.flatten(0, -4))
        if not is_gpu(batch.images.device):
            self.records += self._scored(logits, outputs, batch)
            return
        self._waiting.append(self._pool.submit(self._scored, logits, outputs, batch))
        self.settle(BEHIND if batch_idx + 1 < trainer.num_test_batches[0] else 0)

    def settle(self, waiting: int = 0) -> None:
        """Wait until only so many batches are not among the records yet; what failed in the thread is raised here."""
        while len(self._waiting) > waiting:
            self.records += self._waiting[0].result()  # a failed one stays, and is raised again by who asks next
            self._waiting.popleft()

    def _scored(self, fetch: Callable[[], Tensor], outputs: StepResult, batch: ImageBatch) -> list[ImageRecord]:
        """One per image of a batch."""
        # One image at a time, and on the host, as a user's own images: masks as stored may be large.
        logits, records = fetch(), []
        per_stream = len(logits) // len(batch.images)
        graded = not all(metric.from_predictions for metric in self.metrics.values())
        for row, place in enumerate(batch.places):
            domain = self.domains[place.domain]
            diagnostics = {name: float(values[row // per_stream]) for name, values in outputs.diagnostics.items()}
            image = domain.restored(logits[row], place.index)
            found, truth, classes = self.finish(image), domain.truth(place.index), tuple(domain.classes)
            # Without the background of a softmax.
            chances = probabilities(image, self.finish.activation)[-len(classes) :] if graded else None
            spacing = spacing_of(domain, place.index, self.spaced)[1:]
            sample = Sample(found, truth, classes, spacing, chances)
            skipped = outputs.skipped[row // per_stream] if outputs.skipped and row % per_stream == 0 else 0
            scores = {name: metric.score(sample, self.empty) for name, metric in self.metrics.items()}
            prediction = Predictions.of([found.numpy()])
            records.append(
                ImageRecord(place, scores, prediction, diagnostics, outputs.seconds, sample.emptiness(), skipped)
            )
        return records
