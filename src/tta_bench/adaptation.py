"""Adapt one method along target streams under a Lightning trainer, and score every prediction."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader

from tta_bench.data.domain import Domain
from tta_bench.data.streams import LabelledBatch, LockstepDataset, Stream, StreamImage
from tta_bench.draws import ImageKey
from tta_bench.lightning import quiet_lightning
from tta_bench.methods.base import StepResult, TTACallback
from tta_bench.metrics import dice_score
from tta_bench.results.predictions import Predictions

log = logging.getLogger(__name__)
SNAPSHOT_SECONDS = 10.0
"""Shortest time between two snapshots of a run."""
SNAPSHOT_SHARE = 0.02
"""Largest part of a run's time that its snapshots take, beyond the first."""


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


@dataclass(frozen=True)
class ImageRecord:
    """The score of one prediction.

    Attributes:
        place: the image.
        dice: percent per class, in the order of the domain's classes.
        prediction: of this image alone, packed at once: as many as a data set has would not fit into memory.
        diagnostics: what the method reports of its update.
        seconds: wall time of adaptation and prediction.
    """

    place: StreamImage
    dice: tuple[float, ...]
    prediction: Predictions
    diagnostics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """How far a run has come.

    Attributes:
        group: number of the present group of streams.
        steps: images that each stream of the group has seen, unless it has ended.
        records: of all images so far.
        state: of the method, from :meth:`TTACallback.state_dict`.
        forwards: of the network so far.
    """

    group: int
    steps: int
    records: list[ImageRecord]
    state: dict[str, Any]
    forwards: int

    def content(self) -> dict[str, Any]:
        """The same as tensors and plain values."""
        masks = Predictions.joined([record.prediction for record in self.records])
        scores = [
            {"place": vars(r.place), "dice": r.dice, "diagnostics": r.diagnostics, "seconds": r.seconds}
            for r in self.records
        ]
        predictions = {"bits": torch.from_numpy(masks.bits), "shape": masks.shape}
        return {**vars(self), "records": scores, "predictions": predictions}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Snapshot:
        """The snapshot with this content."""
        parts = dict(content)
        predictions = parts.pop("predictions")
        masks = predictions["bits"].split(1)
        records = [
            ImageRecord(
                place=StreamImage(**scores.pop("place")),
                prediction=Predictions(bits.numpy(), predictions["shape"]),
                **scores,
            )
            for bits, scores in zip(masks, parts.pop("records"), strict=True)
        ]
        return cls(records=records, **parts)


class SnapshotFile:
    """The latest snapshot of a run, on disk.

    Args:
        path: the file, replaced each time.
        key: all that two runs must have in common for one to go on where the other stopped; plain values.
    """

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self.path = path
        self.key = dict(key)
        self._due = monotonic() + SNAPSHOT_SECONDS

    def read(self) -> Snapshot | None:
        """The snapshot; None if there is none, and with a warning if it is broken or of another key."""
        if not self.path.exists():
            return None
        try:
            content = torch.load(self.path, weights_only=True)
            key = content.pop("key")
            others = sorted(name for name in self.key | key if self.key.get(name) != key.get(name))
            if not others:
                return Snapshot.of(content)
            reason = f"it differs in {', '.join(others)}"
        except Exception as error:  # torch raises many kinds for damaged files, none documented
            reason = f"it cannot be read, {type(error).__name__}"
        log.warning("ignoring the snapshot %s (%s): adapting from the first image", self.path, reason)
        return None

    def keep(self, snapshot: Callable[[], Snapshot]) -> None:
        """Write a snapshot if it is time; where that is not possible the run goes on without."""
        begin = monotonic()
        if begin < self._due:
            return
        temporary = self.path.with_suffix(".part")
        try:
            torch.save({"key": self.key, **snapshot().content()}, temporary)
            os.replace(temporary, self.path)
        except (TypeError, OSError, RuntimeError) as error:  # the last is what torch.save makes of a full disk
            log.warning("no snapshots, this run cannot be resumed if it is killed: %s", error)
            temporary.unlink(missing_ok=True)
            self._due = math.inf
            return
        end = monotonic()
        self._due = end + max(SNAPSHOT_SECONDS, (end - begin) / SNAPSHOT_SHARE)


class AdaptationModule(pl.LightningModule):
    """Hands unlabelled images to the method and scores its predictions.

    Args:
        streams: how many streams run side by side.
        threshold: probability from which a pixel belongs to a class.
    """

    def __init__(self, streams: int, threshold: float) -> None:
        super().__init__()
        self.streams = streams
        self.threshold = threshold
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
        scores = dice_score(predictions, self.withheld.labels).tolist()
        for row, (place, dice) in enumerate(zip(self.withheld.places, scores, strict=True)):
            diagnostics = {name: float(values[row]) for name, values in result.diagnostics.items()}
            prediction = Predictions.of([predictions[row].numpy()])
            self.records.append(ImageRecord(place, tuple(dice), prediction, diagnostics, result.seconds))


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
        title: of the progress bar.
        snapshots: of this run, and of one before it that was killed.
        observers: callbacks that look on, called before the method.

    Returns:
        A record per image; streams in the order of ``groups``, side by side within a group.
    """
    device = method.network.source_theta.device
    total = sum(len(stream) for group in groups for stream in group)
    columns = (TextColumn(f"{title} {{task.fields[domain]}}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    resumed = snapshots.read()
    records = list(resumed.records) if resumed is not None else []
    if resumed is not None:
        log.info("going on after %d of %d images, where a run before was stopped", len(records), total)
    console = Console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar, quiet_lightning():
        task = bar.add_task("", total=total, completed=len(records), domain="")
        for number, group in enumerate(groups):
            if resumed is not None and number < resumed.group:
                continue
            module = AdaptationModule(len(group), threshold)
            resumption = Resumption(snapshots, method, number, records, resumed)
            dataset = LockstepDataset(domains, group, seed, resumption.first)
            loader = DataLoader(dataset, batch_size=None, shuffle=False)
            trainer = pl.Trainer(
                accelerator="gpu" if device.type == "cuda" else "cpu",
                devices=1,
                inference_mode=False,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[*observers, method, resumption, AdaptationProgress(bar, task)],
            )
            trainer.test(module, loader, verbose=False)
            records += module.records
            resumed = None
    return records
