"""AIVA: clusters of the target are drawn to those of the source that they match (Goodman et al., DART 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from tta_bench.models.segmentation import SegmentationModel
from tta_bench.offline.access import Access, Images
from tta_bench.offline.base import SystemCard, TrainedOptions, TrainedSystem, batches, register_system
from tta_bench.offline.clusters import alignment, embedded, k_means, matched, means, principal_components
from tta_bench.offline.fine_tuning import cross_entropy, drawn
from tta_bench.runtime.ranges import NonNegative, Positive, Range

FIRST = 6
"""Mini-batches, the first of all, whose mean alignment loss becomes 1."""


@dataclass(frozen=True)
class AivaOptions(TrainedOptions):
    """Of AIVA.

    Attributes:
        source_batch_size: source images in a step, beside ``batch_size`` of the target.
        clusters: of each site; of fewer images, as many as there are.
        components: principal components of the bottleneck features that t-SNE is given.
        perplexity: of t-SNE.
        weight: of the alignment, beside the scale that makes it 1 at first; 0 for the control.
    """

    source_batch_size: Annotated[int, Range(1, 2**16)]
    clusters: Annotated[int, Range(1, 2**10)]
    components: Annotated[int, Range(2, 2**10)]
    perplexity: Positive
    weight: NonNegative


@register_system("aiva")
class Aiva(TrainedSystem):
    """Segmentation is trained on the source, while each cluster of target images moves to the source's it matches."""

    card = SystemCard(
        adapts="all weights and normalisation statistics",
        needs=("source_images", "source_labels", "target_images"),
        paper="Goodman et al., DART 2022",
        licence="none",
    )
    Options: ClassVar[type[AivaOptions]] = AivaOptions
    transient = frozenset({"clusters", "centres"})

    def __init__(self, model: SegmentationModel, access: Access, options: Any, seed: int) -> None:
        super().__init__(model, access, options, seed)
        self.first: list[float] = []  # alignment loss of the first mini-batches, not scaled

    def epoch(self, number: int) -> dict[str, float]:
        """Cluster and match, then a step per batch; tells how far matched clusters were apart before."""
        distance = self.cluster(number)
        return {**super().epoch(number), "distance": distance}

    def cluster(self, number: int) -> float:
        """Clusters of both sites, for an epoch; the mean squared difference of the features of those that match.

        Sets ``clusters``, those of the target's images as numbers of the source's, int ``[images]``, and ``centres``,
        the mean features of the source's, ``[k, d]``.
        """
        source, target = self.features(self.access.source_images), self.features(self.access.target_images)
        count, k = len(source), min(self.options.clusters, len(source), len(target))
        axes = principal_components(torch.cat([source, target]), self.options.components)
        plane = embedded(axes, self.options.perplexity)
        of_source, source_centres = k_means(plane[:count], k, self.generator("source clusters", number))
        of_target, target_centres = k_means(plane[count:], k, self.generator("target clusters", number))
        nothing = source.new_zeros(k, source.shape[1])
        self.clusters = matched(target_centres, source_centres)[of_target]
        self.centres = means(source, of_source, nothing).to(self.device)
        own = means(target, self.clusters, self.centres.cpu())
        return float(((own - self.centres.cpu()) ** 2).mean())

    def features(self, images: Images) -> Tensor:
        """The bottleneck of every image by the model as it is, flattened: float32 ``[images, d]`` on the CPU."""
        self.model.eval()
        places = batches(list(range(len(images))), self.options.batch_size)
        with torch.no_grad():
            maps = [self.model.features(images.batch(part).to(self.device))[-1] for part in places]
        return torch.cat([each.flatten(1).cpu() for each in maps])

    def loss(self, places: list[int], generator: torch.Generator) -> Tensor:
        """Cross-entropy of source images, and the scaled alignment of the target's; both are normalised together."""
        of_source = drawn(len(self.access.source_images), self.options.source_batch_size, generator)
        source, target = self.access.source_images.batch(of_source), self.access.target_images.batch(places)
        maps = self.model.features(torch.cat([source, target]).to(self.device))
        logits = self.model.classify(self.model.decode([each[: len(source)] for each in maps]))
        labels = self.access.source_labels.batch(of_source).to(self.device)
        apart = alignment(maps[-1][len(source) :].flatten(1), self.clusters[places].to(self.device), self.centres)
        if len(self.first) < FIRST:
            self.first = [*self.first, float(apart.detach())]
        scale = len(self.first) / max(sum(self.first), 1e-12)
        return cross_entropy(self.model, logits, labels) + self.options.weight * scale * apart
