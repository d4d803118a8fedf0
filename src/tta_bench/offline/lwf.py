"""Learning without forgetting: new labels, and what the model before says of the same images (Li and Hoiem 2016)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tta_bench.models.segmentation import SegmentationModel
from tta_bench.offline.access import Access
from tta_bench.offline.base import SystemCard, register_system
from tta_bench.offline.fine_tuning import FineTuneAll, FineTuningOptions, cross_entropy
from tta_bench.ops.probabilities import Activation, divergences
from tta_bench.runtime.ranges import NonNegative, Positive


@dataclass(frozen=True)
class LwfOptions(FineTuningOptions):
    """Of learning without forgetting.

    Attributes:
        weight: of the distillation.
        temperature: that both models' logits are divided by in it.
    """

    weight: NonNegative
    temperature: Positive


def distillation(before: Tensor, logits: Tensor, temperature: float, activation: Activation) -> Tensor:
    """Mean divergence of softened predictions from those before, scaled so that gradients keep their size.

    Args:
        before: logits ``[N, channels, H, W]`` of the model before.
        logits: of the model that is trained.
        temperature: above 0.
        activation: what the logits stand for.
    """
    return temperature**2 * divergences(before / temperature, logits / temperature, activation).mean()


@register_system("lwf")
class LearningWithoutForgetting(FineTuneAll):
    """All layers are trained on labelled images of the target, on which the source model's predictions are kept."""

    card = SystemCard(
        adapts="all weights and normalisation statistics",
        needs=("target_labels",),
        paper="Li and Hoiem, ECCV 2016",
        licence="unknown",
    )
    Options: ClassVar[type[LwfOptions]] = LwfOptions
    transient = frozenset({"before"})

    def __init__(self, model: SegmentationModel, access: Access, options: Any, seed: int) -> None:
        super().__init__(model, access, options, seed)
        self.before = copy.deepcopy(model).eval()

    def loss(self, places: list[int], generator: torch.Generator) -> Tensor:
        """Cross-entropy, and the distillation."""
        images, labels = (each.to(self.device) for each in self.batch(places, generator))
        logits = self.model(images)
        with torch.no_grad():
            before = self.before(images)
        kept = distillation(before, logits, self.options.temperature, self.model.activation)
        return cross_entropy(self.model, logits, labels) + self.options.weight * kept
