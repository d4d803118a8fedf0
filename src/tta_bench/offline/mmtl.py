"""MMTL: batches that are the source's at first and the target's at last (Goodman et al., DART 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tta_bench.offline.base import SystemCard, register_system
from tta_bench.offline.fine_tuning import FineTuneAll, FineTuningOptions, drawn

Schedule = Literal["linear", "staircase"]


@dataclass(frozen=True)
class MmtlOptions(FineTuningOptions):
    """Of MMTL.

    Attributes:
        schedule: of the number of target images in a batch: ``linear``, the paper's, or ``staircase``, of its code.
    """

    schedule: Schedule


def target_share(epoch: int, epochs: int, batch_size: int, schedule: Schedule) -> int:
    """How many images of a batch are the target's, in an epoch counted from 0.

    >>> [target_share(epoch, 60, 16, "linear") for epoch in (0, 3, 4, 59)]
    [0, 0, 1, 15]
    >>> [target_share(epoch, 60, 16, "staircase") for epoch in (0, 3, 4, 59)]
    [1, 1, 2, 15]
    """
    return min(epoch // 4 + 1, batch_size) if schedule == "staircase" else epoch * batch_size // epochs


@register_system("mmtl")
class Mmtl(FineTuneAll):
    """Training goes on with source images, of which labelled images of the target take the place, epoch by epoch."""

    card = SystemCard(
        adapts="all weights and normalisation statistics",
        needs=("source_images", "source_labels", "target_labels"),
        paper="Goodman et al., DART 2022",
        licence="unknown",
    )
    Options: ClassVar[type[MmtlOptions]] = MmtlOptions

    def target_share(self, number: int) -> int:
        """See :func:`target_share`."""
        return target_share(number, self.epochs, self.options.batch_size, self.options.schedule)

    def batch(self, places: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The images of the target, behind those of the source that fill the batch."""
        source, labels, target = self.access.source_images, self.access.source_labels, self.access.target_labels
        others = drawn(len(source), self.options.batch_size - len(places), generator)
        images = [source[place] for place in others] + [target.images[place] for place in places]
        truth = [labels[place] for place in others] + [target.labels[place] for place in places]
        return torch.stack(images), torch.stack(truth)
