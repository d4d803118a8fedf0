"""CoTTA: continual adaptation with a mean teacher and stochastic restoration (Wang et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from tta_bench.methods.base import Card, Diagnostics, GradientMethod, GradientOptions, register_method
from tta_bench.methods.space import Tuned
from tta_bench.models.normalisation import Statistics
from tta_bench.ops.draws import Draws, drawn
from tta_bench.ops.probabilities import CLASSES, Activation, cross_entropies
from tta_bench.ops.views import fitting_views, undo_weak_views, weak_views
from tta_bench.runtime.ranges import Fraction, NonNegative
from tta_bench.runtime.transfer import sent


@dataclass(frozen=True)
class CoTTAOptions(GradientOptions):
    """Options of CoTTA.

    Attributes:
        teacher_momentum: weight of the teacher's past in its moving average of the student, in [0, 1].
        restore: probability that a scalar of the student returns to the source model after an update, in [0, 1].
        confidence: images of which the source model is at least this sure on average are taught by the teacher's
            plain prediction, all others by its mean over the views, in [0, 1].
    """

    learning_rate: Annotated[NonNegative, Tuned(1e-7, 1e-2, log=True)]
    teacher_momentum: Annotated[Fraction, Tuned(0.9, 1)]
    restore: Annotated[Fraction, Tuned(0, 0.1)]
    confidence: Fraction


@register_method("cotta")
class CoTTA(GradientMethod):
    """The student follows a teacher that averages over views, the teacher follows the student, the source pulls back.

    ``state`` holds the student's parameters, ``teacher`` those of the teacher, both ``[streams, scalars]``.
    """

    card = Card(
        adapts="all parameters",
        statistics="test image",
        needs_source_statistics=False,
        forwards=9,
        backwards=1,
        paper="Wang et al., CVPR 2022",
        licence="MIT",
        stochastic=True,
    )
    Options = CoTTAOptions
    transient = frozenset({"_source"})

    @classmethod
    def is_stochastic(cls, options: CoTTAOptions) -> bool:
        """Whether it is drawn which scalars are restored: all and none are not."""
        return 0 < options.restore < 1

    @property
    def source_theta(self) -> Tensor:
        """All parameters of the source model, ``[scalars]``."""
        return self.network.source_parameters

    def start(self, streams: int) -> None:
        """Student and teacher at the source model, with a fresh optimiser."""
        super().start(streams)
        self.teacher = self.state.theta.clone()
        self._source = self.source_theta

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """One step of the student towards the teacher; then the teacher moves and the student is partly restored."""
        theta = self.theta(len(images))
        target, confidence = self._target(images)
        losses, gradient = self.gradient(
            lambda network: cross_entropies(network(images), target, network.activation).flatten(1).mean(1), theta
        )
        rate = torch.full_like(losses, self.options.learning_rate)
        skipped = self.state.step(gradient, rate, losses)
        teacher, rows = self.teacher[: len(images)], skipped[:, None]
        torch.where(rows, teacher, teacher.lerp(theta, 1 - self.options.teacher_momentum), out=teacher)
        self._restore(theta, skipped, draws.generators("stochastic restore"))
        return {"loss_consistency": losses, "confidence": confidence, "lr": rate, "skipped": skipped}

    def predict(self, images: Tensor) -> Tensor:
        """Logits ``[A, classes, H, W]`` of the teacher."""
        return self.network(images, self.teacher[: len(images)], self.statistics)

    def deployed(self, stream: int) -> tuple[Tensor, Statistics]:
        """See the base class: the teacher."""
        _, statistics = super().deployed(stream)
        return self.teacher[stream], statistics

    def _restore(self, theta: Tensor, skipped: Tensor, generators: Sequence[torch.Generator]) -> None:
        """Take the drawn scalars of the rows ``[A, scalars]`` that were not skipped back to the source model."""
        places = drawn(generators, _restored, theta.shape[1], self.options.restore, joined=_rows_and_columns)
        row, column = (sent(each, theta.device) for each in places)
        theta[row, column] = torch.where(skipped[row], theta[row, column], self._source[column])

    def _target(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The probabilities to learn ``[A, classes, H, W]``, and the source model's mean confidence ``[A]``."""
        # The source model shares its convolutions with itself: affine rows let all streams run in one pass.
        count = len(images)
        anchor = self.network(images, self.network.source_theta.expand(count, -1), self.statistics)
        confidence = certainty(self.network.probabilities(anchor), self.network.activation).flatten(1).mean(1)
        names = fitting_views(images)
        logits = self.network(weak_views(images, names), self.teacher[:count], self.statistics)
        views = undo_weak_views(self.network.probabilities(logits), names)
        plain = views[:, names.index("identity")]
        is_sure = (confidence >= self.options.confidence)[:, None, None, None]
        return torch.where(is_sure, plain, views.mean(dim=1)), confidence


def certainty(probabilities: Tensor, activation: Activation) -> Tensor:
    """Probability of what is most probable, ``[A, distributions, H, W]``: a class or its absence, or one of all."""
    if activation == "softmax":
        return probabilities.amax(CLASSES, keepdim=True)
    return torch.maximum(probabilities, 1 - probabilities)


def _restored(generator: torch.Generator, count: int, probability: float) -> Tensor:
    return chosen(count, probability, generator)


def _rows_and_columns(chosen: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Where the chosen columns of every row are, one row after another."""
    rows = [torch.full_like(columns, row) for row, columns in enumerate(chosen)]
    return torch.cat(rows), torch.cat(list(chosen))


def chosen(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Indices below ``count``, ascending, each chosen with the same probability and independently of the others.

    The gaps between them are drawn, which takes as many draws as there are indices and not ``count``.
    """
    if probability in (0, 1):
        return torch.arange(count if probability else 0)
    parts, last = [], -1.0
    while last < count:
        gaps = torch.empty(int(1.1 * count * probability) + 64, dtype=torch.float64)
        parts.append(last + gaps.geometric_(probability, generator=generator).cumsum(0))
        last = float(parts[-1][-1])
    indices = torch.cat(parts)
    return indices[indices < count].long()
