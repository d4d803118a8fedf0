"""DPL: denoised pseudo-labelling (Chen et al., MICCAI 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.offline.access import Access
from tta_bench.offline.base import (
    SYSTEMS,
    System,
    SystemCard,
    TrainedOptions,
    TrainedSystem,
    batches,
    register_system,
)
from tta_bench.offline.corruption import corrupt
from tta_bench.ops.pseudo_labels import Trusted, beliefs, masked_cross_entropy, trusted_labels
from tta_bench.runtime.ranges import Fraction, Positive, Range


@dataclass(frozen=True)
class DplOptions(TrainedOptions):
    """Options of DPL.

    Attributes:
        passes: stochastic passes per image, for the pseudo-labels.
        dropout_bottleneck: probability of a channel of the encoder's output, in those passes alone.
        dropout_head: likewise, of the input of the classifier.
        temperature: divides the logits before their spread over the passes is taken.
        threshold: probability from which on a pixel belongs to a class.
        largest_uncertainty: spread below which a pixel is reliable.
    """

    passes: Annotated[int, Range(2, 2**10)]
    dropout_bottleneck: Annotated[float, Range(0, 1, "[)")]
    dropout_head: Annotated[float, Range(0, 1, "[)")]
    temperature: Positive
    threshold: Fraction
    largest_uncertainty: Positive


@register_system("dpl")
class Dpl(TrainedSystem):
    """Pseudo-labels of the source model, kept where it is certain and the nearest prototype agrees, then trained on."""

    card = SystemCard(
        adapts="all weights and normalisation statistics",
        needs=("target_images",),
        paper="Chen et al., MICCAI 2021",
        licence="none",
    )
    Options: ClassVar[type[DplOptions]] = DplOptions

    def __init__(self, model: SegmentationModel, access: Access, options: Any, seed: int) -> None:
        super().__init__(model, access, options, seed)
        check_classes(self, model)
        self.labels: Tensor | None = None  # bool [n, C, H, W], of all images, made once
        self.masks: Tensor | None = None

    def loss(self, places: list[int], generator: torch.Generator) -> Tensor:
        """Cross-entropy with the pseudo-labels of corrupted images, over trusted pixels."""
        images = corrupt(self.access.target_images.batch(places), generator).to(self.device)
        labels, mask = self.trusted(places)
        return masked_cross_entropy(self.model(images), labels.to(self.device), mask.to(self.device))

    def trusted(self, places: list[int]) -> Trusted:
        """Pseudo-labels and trusted pixels of some images; those of all are made by the source model at first."""
        if self.labels is None or self.masks is None:
            count = len(self.access.target_images)
            modes = {module: module.training for module in self.model.modules()}
            self.model.eval()
            with torch.no_grad():
                parts = [self.refined(part) for part in batches(list(range(count)), self.options.batch_size)]
            for module, mode in modes.items():
                module.training = mode
            self.labels = torch.cat([part.labels.cpu() for part in parts])
            self.masks = torch.cat([part.mask.cpu() for part in parts])
        return Trusted(self.labels[places], self.masks[places])

    def refined(self, places: list[int]) -> Trusted:
        """Of a batch, whose prototypes are common, by the source model under its own statistics."""
        options = self.options
        images = self.access.target_images.batch(places).to(self.device)
        passes = (self.stochastic(images, self.generator("pass", places[0], k)) for k in range(options.passes))
        found, features = next(passes)
        logits = [found]
        for found, of_pass in passes:  # in turn: the maps of all passes take more memory than there may be
            logits.append(found)
            features = features + of_pass
        return trusted_labels(
            beliefs(torch.stack(logits), options.temperature),
            features / options.passes,
            threshold=options.threshold,
            largest_uncertainty=options.largest_uncertainty,
        )

    def stochastic(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Logits of a pass with dropout, and what prototypes are of: here the input of the classifier.

        Features are ``[N, F, h, w]``, or one map for each class ``[N, C, F, h, w]``.
        """
        return stochastic_pass(self.model, images, self.options, generator)


def check_classes(system: System, model: SegmentationModel) -> None:
    """Refuse a model whose classes exclude each other.

    Raises:
        UserError: it is one.
    """
    if model.activation != "sigmoid":
        raise UserError(
            f"adapt={SYSTEMS.name_of(type(system))} has pseudo-labels of each class on its own, and data.exclusive="
            "true makes classes that exclude each other: choose another system"
        )


def stochastic_pass(
    model: SegmentationModel, images: Tensor, options: DplOptions, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Logits of one pass with dropout, and the input of the classifier before its own dropout."""
    features = model.features(images)
    features[-1] = dropped(features[-1], options.dropout_bottleneck, generator)
    head_input = model.decode(features)
    return model.classify(dropped(head_input, options.dropout_head, generator)), head_input


def dropped(values: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Dropout of single values of ``[N, C, H, W]``, drawn on the CPU so that devices agree."""
    if probability == 0:
        return values
    kept = torch.rand(values.shape, generator=generator) >= probability
    return values * kept.to(values) / (1 - probability)
