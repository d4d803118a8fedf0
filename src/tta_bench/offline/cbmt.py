"""CBMT: a class-balanced mean teacher (Tang et al., MICCAI 2023)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from tta_bench.models.segmentation import SegmentationModel
from tta_bench.offline.access import Access
from tta_bench.offline.base import Curve, SystemCard, TrainedOptions, TrainedSystem, batches, register_system
from tta_bench.offline.corruption import corrupt
from tta_bench.offline.dpl import check_classes
from tta_bench.ops.pseudo_labels import masked_cross_entropy
from tta_bench.runtime.ranges import Decay, Positive, Range


@dataclass(frozen=True)
class CbmtOptions(TrainedOptions):
    """Options of CBMT.

    Attributes:
        rate_decay: the learning rate is multiplied by it after every epoch.
        teacher_keeps: part of a weight of the teacher that stays at a step.
        threshold: probability from which on, exclusively, a pixel belongs to a class.
        band: part of the room beside the threshold whose pixels do not count for the balance, on either side too
            certain to tell anything.
    """

    rate_decay: Positive
    teacher_keeps: Decay
    threshold: Annotated[float, Range(0, 1, "()")]
    band: Annotated[float, Range(0, 1, "()")]


@register_system("cbmt")
class Cbmt(TrainedSystem):
    """A student learns from the pseudo-labels of a teacher, its running average; the teacher is what is adapted."""

    card = SystemCard(
        adapts="all weights and normalisation statistics",
        needs=("target_images",),
        paper="Tang et al., MICCAI 2023",
        licence="none",
    )
    Options: ClassVar[type[CbmtOptions]] = CbmtOptions

    def __init__(self, model: SegmentationModel, access: Access, options: Any, seed: int) -> None:
        super().__init__(model, access, options, seed)
        check_classes(self, model)
        self.teacher = copy.deepcopy(model).requires_grad_(False)
        self.predicted: Tensor | None = None  # [n, H, W], the teacher's latest probability of the last class
        self.weight = 1.0

    def epoch(self, number: int) -> Curve:
        """A step per batch, by the balance and the learning rate of this epoch."""
        options = self.options
        if self.predicted is None:
            self.predicted = self._by_source()
        self.weight = balance(self.predicted, options.threshold, options.band)
        self.optimizer.param_groups[0]["lr"] = options.learning_rate * options.rate_decay**number
        self.teacher.train()  # its statistics are those of what it is shown
        curve = super().epoch(number)
        self.teacher.eval()
        return {**curve, "weight": self.weight}

    def loss(self, places: list[int], generator: torch.Generator) -> Tensor:
        """Cross-entropy of corrupted images with the teacher's pseudo-labels of clean ones, the last class balanced."""
        assert self.predicted is not None
        images = self.access.target_images.batch(places)
        with torch.no_grad():
            probability = torch.sigmoid(self.teacher(images.to(self.device)))
        self.predicted[places] = probability[:, -1].cpu()
        labels = probability > self.options.threshold
        weight = torch.ones_like(probability)
        weight[:, -1][~labels[:, -1]] = self.weight
        return masked_cross_entropy(self.model(corrupt(images, generator).to(self.device)), labels, weight)

    def after_step(self) -> None:
        """Move the teacher's weights towards the student's."""
        follow(self.teacher, self.model, self.options.teacher_keeps)

    def adapted(self) -> SegmentationModel:
        """The teacher."""
        return self.teacher

    def _by_source(self) -> Tensor:
        """The source model's probabilities of the last class, under its own statistics."""
        images = self.access.target_images
        parts = batches(list(range(len(images))), self.options.batch_size)
        with torch.no_grad():
            return torch.cat([torch.sigmoid(self.model(images.batch(p).to(self.device)))[:, -1].cpu() for p in parts])


def balance(probability: Tensor, threshold: float = 0.75, band: float = 0.2) -> float:
    """Weight of a class's background: how unsure its foreground is, by how unsure its background is.

    Each is the mean cross-entropy with the pseudo-label over the pixels of that side that are in between the threshold
    and the bounds. 1 where there are none of either side.

    Args:
        probability: of the class, of all images, any shape.
        threshold: between the sides.
        band: see :class:`CbmtOptions`.
    """
    inside = probability[(probability > threshold) & (probability < 1 - (1 - threshold) * band)].double()
    outside = probability[(probability < threshold) & (probability > threshold * band)].double()
    if not len(inside) or not len(outside):
        return 1.0
    return float(inside.log().mean() / (1 - outside).log().mean())


@torch.no_grad()
def follow(teacher: torch.nn.Module, student: torch.nn.Module, keeps: float) -> None:
    """Weights of the teacher become ``keeps`` times themselves and the rest the student's; statistics stay."""
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.mul_(keeps).add_(new, alpha=1 - keeps)
