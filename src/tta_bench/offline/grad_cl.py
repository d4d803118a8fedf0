"""Grad-CL (Thakur et al., BMVC 2025), our reconstruction: DPL with gradient-informed features that are kept apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tta_bench.models.late_map import late_map
from tta_bench.offline.base import SystemCard, register_system
from tta_bench.offline.corruption import corrupt
from tta_bench.offline.dpl import Dpl, DplOptions, stochastic_pass
from tta_bench.ops.class_features import Salience, class_features, contrast
from tta_bench.ops.pseudo_labels import Trusted, masked_cross_entropy
from tta_bench.runtime.ranges import NonNegative


@dataclass(frozen=True)
class GradClOptions(DplOptions):
    """Options of Grad-CL.

    Attributes:
        features: what prototypes are of: a feature map weighted for each class by its gradient (see
            :data:`~tta_bench.ops.class_features.Salience`), or ``plain``, as in DPL.
        lam_con: weight of the contrast between classes.
    """

    features: Literal[Salience, "plain"]
    lam_con: NonNegative

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features == "plain" and self.lam_con:
            raise ValueError("features=plain are the same for every class, which nothing keeps apart: set lam_con=0")


@register_system("grad_cl")
class GradCl(Dpl):
    """DPL on class-specific features, and a cosine contrast of the classes."""

    card = SystemCard(
        adapts="all weights and normalisation statistics",
        needs=("target_images",),
        paper="Thakur et al., BMVC 2025",
        licence="not published",
        reconstruction="our reconstruction: all formulas are ours or DPL's",
    )
    Options: ClassVar[type[GradClOptions]] = GradClOptions

    def stochastic(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See :class:`Dpl`; features are those of the classes."""
        if self.options.features == "plain":
            return super().stochastic(images, generator)
        with torch.enable_grad(), late_map(self.model) as found:
            logits, _ = stochastic_pass(self.model, images, self.options, generator)
            features = class_features(found.take(), logits, self.options.features)
        return logits.detach(), features.detach()

    def loss(self, places: list[int], generator: torch.Generator) -> Tensor:
        """That of DPL, and the contrast in the same pass, mean over images."""
        if not self.options.lam_con:
            return super().loss(places, generator)
        trusted = Trusted(*(each.to(self.device) for each in self.trusted(places)))
        images = corrupt(self.access.target_images.batch(places), generator).to(self.device)
        with late_map(self.model) as found:
            logits = self.model(images)
        features = class_features(found.take(), logits, self.options.features)
        segmentation = masked_cross_entropy(logits, trusted.labels, trusted.mask)
        return segmentation + self.options.lam_con * contrast(features, trusted).mean()
