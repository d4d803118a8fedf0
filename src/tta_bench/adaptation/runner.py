"""Adapt one method along target streams under a Lightning trainer, and score every prediction."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader

from tta_bench.data.domain import Domain
from tta_bench.data.streams import LabelledBatch, LockstepDataset, Stream
from tta_bench.methods.base import StepResult, TTACallback
from tta_bench.metrics.base import METRICS
from tta_bench.ops.draws import ImageKey
from tta_bench.records.predictions import Predictions
from tta_bench.records.scores import ImageRecord
from tta_bench.records.snapshots import Snapshot, SnapshotFile
from tta_bench.runtime.lightning import one_device_trainer, quiet_lightning

log = logging.getLogger(__name__)


@dataclass
class UnlabelledBatch:
    """What a method sees of one image of each of ``A`` streams.

    Attributes:
        images: ``[A, 3, size, size]`` in [0, 1], on the device.
        keys: which image each is.
        result: filled in by the method.
    """

    images: Tensor
    keys: list[ImageKey]
    result: StepResult | None = None


class AdaptationModule(pl.LightningModule):
    """Hands unlabelled images to the method and scores its predictions.

    Args:
        streams: how many streams run side by side.
        threshold: probability from which a pixel belongs to a class.
        metrics: names of those to score with.
    """

    def __init__(self, streams: int, threshold: float, metrics: Sequence[str]) -> None:
        super().__init__()
        self.streams = streams
        self.threshold = threshold
        self.metrics = {name: METRICS.get(name) for name in metrics}
        self.records: list[ImageRecord] = []
        self.withheld: LabelledBatch | None = None

    def transfer_batch_to_device(
        self, batch: LabelledBatch, device: torch.device, dataloader_idx: int
    ) -> UnlabelledBatch:
        """Lightning hook before every callback: the labels stay behind, only images travel."""
        self.withheld = batch
        return UnlabelledBatch(batch.images.to(device), batch.keys)

    def test_step(self, batch: UnlabelledBatch, batch_idx: int) -> None:
        """Score the method's prediction of each stream's image."""
        assert batch.result is not None, "no TTACallback has predicted this batch"
        assert self.withheld is not None
        result = batch.result
        predictions = (torch.sigmoid(result.logits) >= self.threshold).cpu()
        scores = {name: metric(predictions, self.withheld.labels).tolist() for name, metric in self.metrics.items()}
        for row, place in enumerate(self.withheld.places):
            diagnostics = {name: float(values[row]) for name, values in result.diagnostics.items()}
            prediction = Predictions.of([predictions[row].numpy()])
            of_image = {name: values[row] for name, values in scores.items()}
            self.records.append(ImageRecord(place, of_image, prediction, diagnostics, result.seconds))


class AdaptationProgress(pl.Callback):
    """One bar for all streams of a cell.

    Args:
        bar: shared by the groups of streams.
        task: the cell's task in it.
    """

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self.bar = bar
        self.task = task

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: UnlabelledBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Advance by the images of this batch."""
        self.bar.update(self.task, advance=len(batch.images), domain=batch.keys[0].domain)


class Resumption(pl.Callback):
    """Takes a group of streams up where a snapshot left it, and keeps snapshots from there on; after the method.

    Args:
        file: of the snapshots.
        method: whose state they hold.
        group: number of the group of streams.
        before: records of all images before this trainer's first.
        resumed: the snapshot to go on from, None for a group's beginning.
    """

    def __init__(
        self,
        file: SnapshotFile,
        method: TTACallback,
        group: int,
        before: Sequence[ImageRecord],
        resumed: Snapshot | None,
    ) -> None:
        self.file = file
        self.method = method
        self.group = group
        self.before = tuple(before)
        self.resumed = resumed
        self.first = resumed.steps if resumed is not None else 0

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the fresh state that the method has just made."""
        if self.resumed is not None:
            self.method.load_state_dict(self.resumed.state)
            self.method.network.forwards = self.resumed.forwards

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: UnlabelledBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a snapshot, but not after the group's last image: there would be nothing to go on with."""
        assert isinstance(pl_module, AdaptationModule)
        records, steps = pl_module.records, self.first + batch_idx + 1
        if batch_idx + 1 < trainer.num_test_batches[0]:
            self.file.keep(
                lambda: Snapshot(
                    self.group,
                    steps,
                    [*self.before, *records],
                    self.method.state_dict(),
                    self.method.network.forwards,
                )
            )


def adapt_streams(
    method: TTACallback,
    domains: Mapping[str, Domain],
    groups: Sequence[Sequence[Stream]],
    *,
    seed: int,
    threshold: float,
    metrics: Sequence[str],
    title: str,
    snapshots: SnapshotFile,
    observers: Sequence[pl.Callback] = (),
) -> list[ImageRecord]:
    """Run ``method`` along every stream, the streams of one group side by side, from the latest snapshot on.

    Args:
        method: with its network on the device to use.
        domains: the prepared targets.
        groups: streams, longest first within a group.
        seed: of the method's random draws.
        threshold: probability from which a pixel belongs to a class.
        metrics: names of those to score with.
        title: of the progress bar.
        snapshots: of this run, and of one before it that was killed.
        observers: callbacks that look on, called before the method.

    Returns:
        A record per image; streams in the order of ``groups``, side by side within a group.
    """
    device = method.network.source_theta.device
    total = sum(len(stream) for group in groups for stream in group)
    columns = (
        TextColumn("{task.description} {task.fields[domain]}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    resumed = snapshots.read()
    records = list(resumed.records) if resumed is not None else []
    if resumed is not None:
        log.info("going on after %d of %d images, where a run before was stopped", len(records), total)
    console = Console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar, quiet_lightning():
        task = bar.add_task(title, total=total, completed=len(records), domain="")
        for number, group in enumerate(groups):
            if resumed is not None and number < resumed.group:
                continue
            module = AdaptationModule(len(group), threshold, metrics)
            resumption = Resumption(snapshots, method, number, records, resumed)
            dataset = LockstepDataset(domains, group, seed, resumption.first)
            loader = DataLoader(dataset, batch_size=None, shuffle=False)
            callbacks = [*observers, method, resumption, AdaptationProgress(bar, task)]
            trainer = one_device_trainer(device, callbacks, inference_mode=False)
            trainer.test(module, loader, verbose=False)
            records += module.records
            resumed = None
    return records
