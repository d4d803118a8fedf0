"""Fine-tuning on labelled images of the target: of all layers (FTA), the first ones (FTF), near the source (L2-SP).

These are the baselines of Goodman et al. (DART 2022), and what its methods have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

from tta_bench.models.segmentation import SegmentationModel
from tta_bench.offline.access import Access
from tta_bench.offline.base import SystemCard, SystemOptions, TrainedSystem, register_system
from tta_bench.ops.probabilities import cross_entropies, targets
from tta_bench.runtime.ranges import Decay, NonNegative, Positive, Range

LABELS = Range(1, 2**16)
"""How many images of a target may be labelled."""

FALL = 0.1
"""Factor of the learning rate in the last quarter of the epochs."""


def _as_labels(value: Any) -> Any:
    """One message for both, where a union has one for each."""
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value in LABELS):
        return value
    raise ValueError(f"adapt.labels={value}: give how many images of a target are labelled, in {LABELS}, or all")


@dataclass(frozen=True)
class LabelledOptions(SystemOptions):
    """Of a system that trains on labelled images of the target.

    Attributes:
        labels: how many images of the target are labelled; ``all`` that are not tested on, for an upper line.
        epochs: after three quarters of them the learning rate falls to a tenth.
        steps: of the optimiser, in each epoch.
        learning_rate: of the first epochs.
    """

    labels: Annotated[Annotated[int, LABELS] | Literal["all"], BeforeValidator(_as_labels)]
    epochs: Annotated[int, Range(1, 10**6)]
    steps: Annotated[int, Range(1, 10**6)]
    learning_rate: Positive


@dataclass(frozen=True)
class FineTuningOptions(LabelledOptions):
    """Of a system whose optimiser starts afresh.

    Attributes:
        optimizer: Adam, or SGD with Nesterov's momentum.
        momentum: of SGD.
    """

    optimizer: Literal["adam", "sgd"]
    momentum: Decay

    def without_effect(self) -> frozenset[str]:
        """The momentum beside Adam."""
        return super().without_effect() | ({"momentum"} if self.optimizer == "adam" else set())


def drawn(count: int, size: int, generator: torch.Generator) -> list[int]:
    """Places of ``size`` of ``count`` images: each at most once where there are enough, else with replacement."""
    if size <= count:
        return torch.randperm(count, generator=generator)[:size].tolist()
    return torch.randint(count, (size,), generator=generator).tolist()


def learning_rate(first: float, epoch: int, epochs: int) -> float:
    """Of an epoch counted from 0."""
    return first * (FALL if 4 * epoch >= 3 * epochs else 1.0)


def cross_entropy(model: SegmentationModel, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over pixels and classes; logits ``[N, channels, H, W]``, labels bool ``[N, classes, H, W]``."""
    return cross_entropies(logits, targets(labels, model.activation).to(logits.dtype), model.activation).mean()


def first_layers(model: SegmentationModel, images: Tensor) -> list[nn.Parameter]:
    """The parameters on which the encoder's first feature map at a quarter of the resolution, or coarser, depends.

    In a ResNet-34 these are the first convolution and the three residual blocks behind it.

    Args:
        model: in eval mode, whose parameters require gradients.
        images: ``[N, 3, H, W]`` in [0, 1], of any content.
    """
    maps = model.features(images)
    first = next(each for each in maps if each.requires_grad and 4 * each.shape[-1] <= images.shape[-1])
    parameters = list(model.parameters())
    reached = torch.autograd.grad(first.sum(), parameters, allow_unused=True)
    return [each for each, gradient in zip(parameters, reached, strict=True) if gradient is not None]


class LabelledSystem(TrainedSystem):
    """A system that trains on labelled images of the target, with the cross-entropy of batches drawn from them."""

    Options: ClassVar[type[Any]] = LabelledOptions

    def steps(self, number: int) -> list[list[int]]:
        """Places in ``access.target_labels``."""
        count, size = len(self.access.target_labels.images), self.target_share(number)
        return [drawn(count, size, self.generator("places", number, k)) for k in range(self.options.steps)]

    def target_share(self, number: int) -> int:
        """How many images of a batch are the target's; default: all."""
        return int(self.options.batch_size)

    def epoch(self, number: int) -> dict[str, float]:
        """As of the base class, at the learning rate of the epoch."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.options.learning_rate, number, self.epochs)
        return dict(super().epoch(number))

    def batch(self, places: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images and labels of a step; arguments as of :meth:`loss`."""
        labelled = self.access.target_labels
        return labelled.images.batch(places), labelled.labels.batch(places)

    def loss(self, places: list[int], generator: torch.Generator) -> Tensor:
        """Cross-entropy of the batch."""
        images, labels = self.batch(places, generator)
        return cross_entropy(self.model, self.model(images.to(self.device)), labels.to(self.device))


@register_system("fta")
class FineTuneAll(LabelledSystem):
    """All layers are trained on the labelled images of the target."""

    card = SystemCard(
        adapts="all weights and normalisation statistics",
        needs=("target_labels",),
        paper="baseline of Goodman et al., DART 2022",
        licence="unknown",
    )
    Options: ClassVar[type[FineTuningOptions]] = FineTuningOptions

    def trained(self) -> list[nn.Parameter]:
        """The parameters that change; default: all."""
        return list(self.model.parameters())

    def new_optimizer(self) -> torch.optim.Optimizer:
        """As the options say."""
        options = self.options
        if options.optimizer == "adam":
            return torch.optim.Adam(self.trained(), lr=options.learning_rate)
        nesterov = options.momentum > 0
        return torch.optim.SGD(self.trained(), lr=options.learning_rate, momentum=options.momentum, nesterov=nesterov)


@register_system("ftf")
class FineTuneFirst(FineTuneAll):
    """The first layers are trained on the labelled images of the target, those that see its appearance."""

    card = SystemCard(
        adapts="weights of the first layers, all normalisation statistics",
        needs=("target_labels",),
        paper="baseline of Goodman et al., DART 2022; Shirokikh et al., DART 2020",
        licence="unknown",
    )

    def trained(self) -> list[nn.Parameter]:
        """Those of :func:`first_layers`; the others need no gradient any more."""
        first = first_layers(self.model, self.access.target_labels.images.batch([0]).to(self.device))
        self.model.requires_grad_(False)
        for each in first:
            each.requires_grad_(True)
        return first


@dataclass(frozen=True)
class L2SpOptions(FineTuningOptions):
    """Of L2-SP.

    Attributes:
        alpha: weight of the squared distance to the source model.
    """

    alpha: NonNegative


@register_system("l2sp")
class L2Sp(FineTuneAll):
    """All layers are trained on the labelled images of the target, and are held near the source model."""

    card = SystemCard(
        adapts="all weights and normalisation statistics",
        needs=("target_labels",),
        paper="Li et al., ICML 2018",
        licence="MIT",
    )
    Options: ClassVar[type[L2SpOptions]] = L2SpOptions
    transient = frozenset({"start"})

    def __init__(self, model: SegmentationModel, access: Access, options: Any, seed: int) -> None:
        super().__init__(model, access, options, seed)
        self.start = [parameter.detach().clone() for parameter in model.parameters()]

    def loss(self, places: list[int], generator: torch.Generator) -> Tensor:
        """Cross-entropy, and the squared distance."""
        pairs = zip(self.model.parameters(), self.start, strict=True)
        distance = torch.stack([((parameter - start) ** 2).sum() for parameter, start in pairs]).sum()
        return super().loss(places, generator) + self.options.alpha * distance
