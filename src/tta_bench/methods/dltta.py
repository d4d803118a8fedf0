"""DLTTA: TENT with a learning rate that follows the discrepancy to similar past images (Yang et al., TMI 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.methods.base import Card, Diagnostics, GradientMethod, GradientOptions, later, register_method
from tta_bench.methods.memory_bank import MemoryBank
from tta_bench.methods.space import Tuned
from tta_bench.methods.state import State
from tta_bench.objectives.base import BoundNetwork
from tta_bench.objectives.entropy import EntropyForm, mean_entropy
from tta_bench.ops.draws import Draws
from tta_bench.ops.probabilities import CLASSES, Activation, probabilities
from tta_bench.runtime.ranges import NonNegative, Positive, Range

SMALLEST_PROBABILITY = 1e-6
"""Probabilities are kept this far from 0 and 1, where the divergence would be infinite."""

RATE_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda discrepancies: discrepancies,
    "exponential": lambda discrepancies: torch.exp(2 * discrepancies),
}
"""Discrepancy -> factor of ``rate_scale``, see :class:`DLTTAOptions`."""


@dataclass(frozen=True)
class DLTTAOptions(GradientOptions):
    """Options of DLTTA; ``learning_rate`` is that of the first images, while the memory is too small.

    Attributes:
        entropy_form: as for TENT.
        warmup: ``constant`` takes ``learning_rate`` for the first images, ``linear`` multiplies it by the number of
            images in the memory.
        memory: past images that are kept, the oldest leave first.
        neighbours: similar past images that the prediction is compared with, at most ``memory``.
        attention_temperature: of the softmax over their cosine similarities, positive.
        prediction_temperature: the logits of the present image are divided by it, positive.
        rate_function: ``linear``: ``rate_scale * D``; ``exponential``: ``rate_scale * exp(2 D)``, where ``D`` is
            :func:`discrepancy`.
        rate_scale: not negative.
        largest_rate: limit of the learning rate after the first images, not negative.
        compared_network: whose keys and predictions are compared and remembered: the ``adapted`` network's, or the
            ``source`` model's with the statistics of the image, which no update moves.
    """

    entropy_form: EntropyForm
    warmup: Literal["constant", "linear"]
    memory: Annotated[int, Range(1, 10**6)]
    neighbours: Annotated[int, Range(1, 10**6)]
    attention_temperature: Positive
    prediction_temperature: Positive
    rate_function: Literal["linear", "exponential"]
    rate_scale: Annotated[NonNegative, Tuned(1e-5, 1e-1, log=True)]
    largest_rate: Annotated[float, Range(0, math.inf)]
    compared_network: Literal["adapted", "source"] = later("adapted")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbours > self.memory:
            raise ValueError(f"neighbours={self.neighbours} must lie between 1 and memory={self.memory}")


class _Latest(State):
    """The latest image of each stream, before it enters the memory; no rows before the first.

    Args:
        images: ``[A, 3, H, W]``.
        keys: ``[A, d]``.
        accepted: Bool ``[A]``, whether its update was carried out.
        logits: ``[A, classes, H, W]``, of the adapted network those after the update, once they have been computed.
    """

    def __init__(self, images: Tensor, keys: Tensor, accepted: Tensor, logits: Tensor | None = None) -> None:
        super().__init__(images=images, keys=keys, accepted=accepted, logits=logits)


@register_method("dltta")
class DLTTA(GradientMethod):
    """One entropy step per image, the larger the more its prediction differs from those of similar past images."""

    card = Card(
        adapts="affine parameters of normalisation",
        statistics="test image",
        needs_source_statistics=False,
        forwards=2,
        backwards=1,
        paper="Yang et al., TMI 2022",
        licence="none stated",
        features=("bottleneck",),
        compares_pixels=True,
        per_stream=("learning_rate", "rate_function", "rate_scale", "largest_rate"),
    )
    Options = DLTTAOptions

    def start(self, streams: int) -> None:
        """Every row at the source model, with a fresh optimiser and an empty memory."""
        super().start(streams)
        self.memory = MemoryBank(streams, self.options.memory, self.source_theta.device)
        self._latest = _Latest(torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.bool))

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """A TENT step whose rate comes from the discrepancy to the memory, which lacks this image itself.

        Raises:
            UserError: an image of another size than the one before.
        """
        if len(self._latest.accepted) and self._latest.images.shape[1:] != images.shape[1:]:
            raise UserError(
                "method=dltta compares images pixel by pixel, and one of another size came: give it images of "
                "one size, or choose another method"
            )
        if draws.update == 0:
            self._remember()
        keys = logits = torch.empty(0)

        def objective(network: BoundNetwork) -> Tensor:
            nonlocal keys, logits
            losses, keys, logits = network.replayable(_evaluated, images, entropy_form=self.options.entropy_form)
            return losses

        losses, gradient = self.gradient(objective, self.theta(len(images)))
        of_source = self.options.compared_network == "source"
        if of_source:
            source = self.network.activations(images, self.source_theta.expand(len(images), -1), self.statistics)
            keys, logits = source.bottleneck.mean(dim=(2, 3)), source.logits
        rate, discrepancies = self._compare(keys, logits)
        skipped = self.state.step(gradient, rate, losses)
        self._latest = _Latest(images, keys, ~skipped, logits if of_source else None)
        return {"loss_entropy": losses, "discrepancy": discrepancies, "lr": rate, "skipped": skipped}

    def predict(self, images: Tensor) -> Tensor:
        """Logits ``[A, classes, H, W]``; those of the image just adapted to are kept for the memory."""
        logits = super().predict(images)
        if images is self._latest.images and self._latest.logits is None:
            self._latest.logits = logits
        return logits

    def _compare(self, keys: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Learning rates and discrepancies, each ``[A]``; 0 where the memory is too small to compare with."""
        options = self.options
        lengths = self.memory.lengths(len(keys))
        factor = lengths.double() if options.warmup == "linear" else torch.ones_like(lengths, dtype=torch.float64)
        rates = (self.option("learning_rate", factor) * factor).to(logits)
        past = self.memory.recall(keys, options.neighbours, options.attention_temperature)
        if past is None:
            return rates, torch.zeros_like(rates)
        discrepancies = discrepancy(logits / options.prediction_temperature, past, self.network.activation)
        is_small = lengths < options.neighbours
        factor = self.choice("rate_function", RATE_FUNCTIONS, discrepancies)
        scale, largest = self.option("rate_scale", factor), self.option("largest_rate", factor)
        rates = torch.where(is_small, rates, learning_rate(factor, scale, largest))
        return rates, discrepancies.masked_fill(is_small, 0)

    def _remember(self) -> None:
        """Put the image before, with its prediction after the update, into the memory."""
        latest = self._latest
        if not len(latest.accepted):
            return
        # Usually it has been predicted; with protocol.predict=before, or none asked for, it has not.
        logits = super().predict(latest.images) if latest.logits is None else latest.logits
        self.memory.push(latest.keys, logits, latest.accepted)


def _evaluated(network: BoundNetwork, images: Tensor, *, entropy_form: EntropyForm) -> tuple[Tensor, Tensor, Tensor]:
    """The entropies ``[A]``, with a gradient; keys ``[A, channels]`` and logits, without."""
    activations = network.network.activations(images, network.theta, network.statistics)
    losses = mean_entropy(activations.logits, entropy_form, network.activation)
    return losses, activations.bottleneck.detach().mean(dim=(2, 3)), activations.logits.detach()


def discrepancy(logits: Tensor, past: Tensor, activation: Activation = "sigmoid") -> Tensor:
    """Half the sum of both Kullback-Leibler divergences of two predictions, mean over all distributions: ``[A]``.

    The sum is ``(p - q) (logit p - logit q)`` for two Bernoulli distributions, and for two of several classes the sum
    over them of ``(p - q) (log p - log q)``: never negative, symmetric, and finite because the probabilities are kept
    away from 0 and 1.

    Args:
        logits: ``[A, classes, H, W]``.
        past: the same shape.
        activation: what both stand for.
    """
    low, high = SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY
    p, q = (probabilities(each, activation).clamp(low, high) for each in (logits, past))
    if activation == "softmax":
        return ((p - q) * (p.log() - q.log())).sum(CLASSES).flatten(1).mean(1) / 2
    return ((p - q) * (torch.logit(p) - torch.logit(q))).flatten(1).mean(1) / 2


def learning_rate(factor: Tensor, scale: float | Tensor, largest: float | Tensor) -> Tensor:
    """The rate that follows from what :data:`RATE_FUNCTIONS` make of a discrepancy, at most the largest one."""
    return (scale * factor).clamp(max=largest)
