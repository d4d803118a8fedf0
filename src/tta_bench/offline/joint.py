"""Joint training: the images before and those of the target alike, the upper line of continual training."""

from __future__ import annotations

import torch
from torch import Tensor

from tta_bench.offline.base import SystemCard, register_system
from tta_bench.offline.fine_tuning import FineTuneAll, drawn


@register_system("joint")
class Joint(FineTuneAll):
    """All layers are trained on batches drawn from the labelled images of source and target together."""

    card = SystemCard(
        adapts="all weights and normalisation statistics",
        needs=("source_images", "source_labels", "target_labels"),
        paper="baseline of González et al., MICCAI 2022",
        licence="unknown",
    )

    def steps(self, number: int) -> list[list[int]]:
        """Places among the labelled images of the target, and behind them those of the source."""
        count = len(self.access.target_labels.images) + len(self.access.source_images)
        size = self.options.batch_size
        return [drawn(count, size, self.generator("places", number, k)) for k in range(self.options.steps)]

    def batch(self, places: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images and labels of both."""
        source, labels, target = self.access.source_images, self.access.source_labels, self.access.target_labels
        first = len(target.images)
        images = [target.images[place] if place < first else source[place - first] for place in places]
        truth = [target.labels[place] if place < first else labels[place - first] for place in places]
        return torch.stack(images), torch.stack(truth)
