"""Adapt one method along target streams under a Lightning trainer, and score every prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
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
        prediction: bool ``[classes, H, W]``.
        diagnostics: what the method reports of its update.
        seconds: wall time of adaptation and prediction.
    """

    place: StreamImage
    dice: tuple[float, ...]
    prediction: np.ndarray
    diagnostics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


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
        self._withheld: LabelledBatch | None = None

    def transfer_batch_to_device(
        self, batch: LabelledBatch, device: torch.device, dataloader_idx: int
    ) -> UnlabelledBatch:
        """Lightning hook before every callback: the labels stay behind, only images travel."""
        self._withheld = batch
        return UnlabelledBatch(batch.images.to(device), batch.keys)

    def test_step(self, batch: UnlabelledBatch, batch_idx: int) -> None:
        """Score the method's prediction of each stream's image."""
        assert batch.result is not None, "no TTACallback has predicted this batch"
        assert self._withheld is not None
        result = batch.result
        predictions = (torch.sigmoid(result.logits) >= self.threshold).cpu()
        scores = dice_score(predictions, self._withheld.labels).tolist()
        for row, (place, dice) in enumerate(zip(self._withheld.places, scores, strict=True)):
            diagnostics = {name: float(values[row]) for name, values in result.diagnostics.items()}
            prediction = predictions[row].numpy()
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


def adapt_streams(
    method: TTACallback,
    domains: Mapping[str, Domain],
    groups: Sequence[Sequence[Stream]],
    *,
    seed: int,
    threshold: float,
    title: str,
) -> list[ImageRecord]:
    """Run ``method`` along every stream, the streams of one group side by side.

    Args:
        method: with its network on the device to use.
        domains: the prepared targets.
        groups: streams, longest first within a group.
        seed: of the method's random draws.
        threshold: probability from which a pixel belongs to a class.
        title: of the progress bar.

    Returns:
        A record per image; streams in the order of ``groups``, side by side within a group.
    """
    device = method.network.source_theta.device
    total = sum(len(stream) for group in groups for stream in group)
    columns = (TextColumn(f"{title} {{task.fields[domain]}}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    records: list[ImageRecord] = []
    console = Console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar, quiet_lightning():
        task = bar.add_task("", total=total, domain="")
        for group in groups:
            module = AdaptationModule(len(group), threshold)
            loader = DataLoader(LockstepDataset(domains, group, seed), batch_size=None, shuffle=False)
            trainer = pl.Trainer(
                accelerator="gpu" if device.type == "cuda" else "cpu",
                devices=1,
                inference_mode=False,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[method, AdaptationProgress(bar, task)],
            )
            trainer.test(module, loader, verbose=False)
            records += module.records
    return records
