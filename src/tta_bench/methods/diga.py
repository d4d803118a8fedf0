"""DIGA: mixed statistics and a classifier by class prototypes (Wang et al., CVPR 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.methods.base import Card, Diagnostics, Method, MethodOptions, Protocol, register_method
from tta_bench.methods.space import Tuned
from tta_bench.methods.step_result import StepResult
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import MixedStatistics, Statistics
from tta_bench.ops.draws import Draws, ImageKey
from tta_bench.ops.probabilities import CLASSES, Activation, logit_of_mixture
from tta_bench.runtime.ranges import Fraction, Positive, Range


@dataclass(frozen=True)
class DIGAOptions(MethodOptions):
    """Options of DIGA.

    Attributes:
        source_weight: of the source statistics in every layer, in [0, 1].
        prototype_weight: of the prototypes' probability against the network's, in [0, 1].
        running_weight: of the running prototypes against those of the image, in [0, 1].
        confidence: probability of a side from which a pixel enters its prototype, in [0.5, 1].
        prototype_rate: weight of the image in the running prototypes, in [0, 1].
        temperature: divides the distances to the prototypes, positive.
    """

    source_weight: Annotated[Fraction, Tuned(0, 1)]
    prototype_weight: Annotated[Fraction, Tuned(0, 1)]
    running_weight: Annotated[Fraction, Tuned(0, 1)]
    confidence: Annotated[float, Range(0.5, 1), Tuned(0.5, 0.99)]
    prototype_rate: Fraction
    temperature: Positive


class Prototypes(NamedTuple):
    """Mean features of the sides of every distribution.

    Under sigmoids each class is one, with its foreground (side 0) and background (side 1); a softmax is one in all,
    with the classes as its sides.
    """

    vectors: Tensor
    """``[S, distributions, sides, channels]``; zeros where not present."""
    present: Tensor
    """Bool ``[S, distributions, sides]``."""


class Evidence(NamedTuple):
    """All that a prediction needs of an image, whatever the state of its stream."""

    features: Tensor
    """``[A, channels, H, W]``, the input of the classifier."""
    logits: Tensor
    """``[A, classes, H, W]``, of the network."""
    prototypes: Prototypes
    """Of the confident pixels of the image."""
    confident: Tensor
    """``[A]``: fraction of pixels, under sigmoids of each class, that are confident."""


@register_method("diga")
class DIGA(Method):
    """Source and image statistics mixed; probabilities of the network, of running and of the image's prototypes too."""

    card = Card(
        adapts="class prototypes",
        statistics="source domain and test image, mixed",
        needs_source_statistics=True,
        forwards=1,
        backwards=0,
        paper="Wang et al., CVPR 2023",
        licence="none stated",
        features=("head_input",),
    )
    Options = DIGAOptions
    transient = frozenset({"_latest"})

    def __init__(
        self, network: AdaptableNetwork, options: DIGAOptions | None = None, protocol: Protocol | None = None
    ) -> None:
        super().__init__(network, options, protocol)
        self.statistics = MixedStatistics(self.options.source_weight)

    def start(self, streams: int) -> None:
        """No stream has seen a confident pixel."""
        super().start(streams)
        # Until the first pass tells how many channels the features have.
        self._vectors: Tensor | None = None
        self._present: Tensor | None = None
        self._latest: tuple[Tensor, Evidence] | None = None

    def step(self, images: Tensor, keys: Sequence[ImageKey]) -> StepResult:
        """One forward pass serves the update and the prediction; see :meth:`Method.step`."""
        self._latest = None
        return super().step(images, keys)

    @property
    def running(self) -> Prototypes | None:
        """The running prototypes of all streams; None before the first image."""
        return None if self._vectors is None or self._present is None else Prototypes(self._vectors, self._present)

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """Move the running prototypes towards those of the image, side by side."""
        evidence = self._evidence(images)
        finite = evidence.logits.isfinite().flatten(1).all(dim=1) & evidence.features.isfinite().flatten(1).all(dim=1)
        running, image = self._running(evidence.prototypes, len(images)), evidence.prototypes
        seen = image.present & finite[:, None, None]
        moved = torch.lerp(running.vectors, image.vectors, self.options.prototype_rate)
        moved = torch.where(running.present[..., None], moved, image.vectors)  # where first seen: a copy
        running.vectors.copy_(torch.where(seen[..., None], moved, running.vectors))
        running.present.logical_or_(seen)
        return {"confident": evidence.confident, "skipped": ~finite}

    def predict(self, images: Tensor) -> Tensor:
        """Logits of the mixture of three probabilities: running prototypes, image's prototypes, network."""
        evidence = self._evidence(images)
        running = self._running(evidence.prototypes, len(images))
        parts = [self._prototype_logits(p, evidence) for p in (running, evidence.prototypes)]
        of_prototypes, of_running = self.options.prototype_weight, self.options.running_weight
        weights = (of_prototypes * of_running, of_prototypes * (1 - of_running), 1 - of_prototypes)
        return logit_of_mixture([*parts, evidence.logits], weights, self.network.activation)

    def deployed(self, stream: int) -> tuple[Tensor, Statistics]:
        """See the base class: there is none."""
        raise UserError(
            "diga predicts with class prototypes beside the network, so that no plain network predicts alike: keep the "
            "adapter, and its state with state_dict()"
        )

    def _evidence(self, images: Tensor) -> Evidence:
        """What the forward pass tells of the images; kept, because it depends on no stream's state."""
        if self._latest is None or self._latest[0] is not images:
            activations = self.network.activations(images, self.theta(len(images)), self.statistics)
            sides = confident_sides(activations.logits, self.options.confidence, self.network.activation)
            features = activations.head_input
            if features.shape[-2:] != sides.shape[-2:]:  # of a network that classifies at a lower resolution
                features = F.interpolate(features, sides.shape[-2:], mode="bilinear", align_corners=False)
            prototypes = mean_features(features, sides)
            # A pixel is confident of one side at most.
            confident = sides.shape[2] * sides.to(images).flatten(1).mean(dim=1)
            self._latest = images, Evidence(features, activations.logits, prototypes, confident)
        return self._latest[1]

    def _running(self, like: Prototypes, active: int) -> Prototypes:
        """Views of the running prototypes of the first streams."""
        running = self.running
        if running is None:
            running = Prototypes(*(each.new_zeros(self.streams, *each.shape[1:]) for each in like))
            self._vectors, self._present = running
        return Prototypes(*(each[:active] for each in running))

    def _prototype_logits(self, prototypes: Prototypes, evidence: Evidence) -> Tensor:
        """Logits of the softmax over ``-distance / temperature`` to the sides that are present, of each distribution.

        The network's where fewer than two are: nothing can be told apart by one.
        """
        distances = prototype_distances(evidence.features, prototypes.vectors)
        if self.network.activation == "softmax":
            present = prototypes.present.flatten(1)[:, :, None, None]
            logits = (-distances[:, 0] / self.options.temperature).masked_fill(~present, -math.inf)
            return torch.where(present.sum(1, keepdim=True) >= 2, logits, evidence.logits)
        foreground, background = distances.unbind(2)
        both = prototypes.present.all(dim=2)[:, :, None, None]
        return torch.where(both, (background - foreground) / self.options.temperature, evidence.logits)


def confident_sides(logits: Tensor, confidence: float, activation: Activation = "sigmoid") -> Tensor:
    """Bool ``[A, distributions, sides, H, W]``: the sides at least as probable as ``confidence``."""
    if activation == "softmax":
        return torch.softmax(logits, CLASSES)[:, None] >= confidence
    return torch.stack([torch.sigmoid(logits), torch.sigmoid(-logits)], dim=2) >= confidence


def mean_features(features: Tensor, sides: Tensor) -> Prototypes:
    """Features ``[A, channels, H, W]`` averaged over each of ``sides`` ``[A, distributions, sides, H, W]``."""
    sums = torch.einsum("acshw,akhw->acsk", sides.to(features), features)
    counts = sides.flatten(3).sum(dim=3)
    return Prototypes(sums / counts.clamp(min=1)[..., None], counts > 0)


def prototype_distances(features: Tensor, vectors: Tensor) -> Tensor:
    """Euclidean distances ``[A, distributions, sides, H, W]`` of features ``[A, channels, H, W]`` to each prototype."""
    pixels = features.flatten(2).transpose(1, 2)
    # By differences: the product form loses the digits of small distances.
    distances = torch.cdist(vectors.flatten(1, 2), pixels, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.unflatten(1, vectors.shape[1:3]).unflatten(3, features.shape[2:])
