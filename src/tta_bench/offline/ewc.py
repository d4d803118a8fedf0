"""Elastic weight consolidation: what earlier stages need most changes least (Kirkpatrick et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tta_bench.models.segmentation import SegmentationModel
from tta_bench.offline.access import Access, Labelled
from tta_bench.offline.base import SystemCard, register_system
from tta_bench.offline.fine_tuning import FineTuneAll, FineTuningOptions, cross_entropy
from tta_bench.runtime.ranges import NonNegative


@dataclass(frozen=True)
class EwcOptions(FineTuningOptions):
    """Of elastic weight consolidation.

    Attributes:
        weight: of the penalty.
    """

    weight: NonNegative


def importance(model: SegmentationModel, labelled: Labelled) -> dict[str, Tensor]:
    """Diagonal of the empirical Fisher information: mean over images of the loss's squared gradient, on the CPU.

    Args:
        model: in eval mode on the device to use.
        labelled: images with their ground truth.
    """
    device = next(model.parameters()).device
    named = dict(model.named_parameters())
    sums = {name: torch.zeros_like(each) for name, each in named.items()}
    for k in range(len(labelled.images)):
        images, labels = labelled.images.batch([k]).to(device), labelled.labels.batch([k]).to(device)
        loss = cross_entropy(model, model(images), labels)
        gradients = torch.autograd.grad(loss, [*named.values()], allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient.square()
    return {name: each.cpu() / len(labelled.images) for name, each in sums.items()}


def penalty(
    parameters: Mapping[str, nn.Parameter], anchors: Mapping[str, Tensor], importances: Mapping[str, Tensor]
) -> Tensor:
    """Half the squared distance to the anchors, each parameter weighted by its importance."""
    parts = [(importances[name] * (each - anchors[name]).square()).sum() for name, each in parameters.items()]
    return torch.stack(parts).sum() / 2


@register_system("ewc")
class ElasticWeightConsolidation(FineTuneAll):
    """All layers are trained on the stage's labelled images, and are held where earlier stages need them."""

    card = SystemCard(
        adapts="all weights and normalisation statistics",
        needs=("source_importance", "target_labels"),
        paper="Kirkpatrick et al., PNAS 2017",
        licence="unknown",
    )
    Options: ClassVar[type[EwcOptions]] = EwcOptions
    of_stages = True
    transient = frozenset({"anchors", "importances"})

    def __init__(self, model: SegmentationModel, access: Access, options: Any, seed: int) -> None:
        super().__init__(model, access, options, seed)
        named = dict(model.named_parameters())
        self.anchors = {name: each.detach().clone() for name, each in named.items()}
        self.importances = {name: access.source_importance[name].to(each.device) for name, each in named.items()}

    def loss(self, places: list[int], generator: torch.Generator) -> Tensor:
        """Cross-entropy, and the penalty."""
        held = penalty(dict(self.model.named_parameters()), self.anchors, self.importances)
        return super().loss(places, generator) + self.options.weight * held
