"""SAR: sharpness-aware and reliable entropy minimisation (Niu et al., ICLR 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.methods.base import Card, Diagnostics, GradientMethod, GradientOptions, Protocol, register_method
from tta_bench.methods.space import Tuned
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.objectives.base import BoundNetwork
from tta_bench.ops.draws import Draws
from tta_bench.ops.probabilities import CLASSES, entropies, most_entropy
from tta_bench.runtime.ranges import NonNegative, Positive, Range

AVERAGE_KEEPS = 0.9
"""Weight of the past in the moving average of the loss, as in the official code."""
REFERENCE_UPDATES = 10
"""Updates after which the moving average of the loss becomes the reference of the recovery."""


@dataclass(frozen=True)
class SAROptions(GradientOptions):
    """Options of SAR.

    Attributes:
        rho: length of the ascent step at whose end the gradient is taken, not negative.
        margin: entropies below this multiple of the largest one, ln 2 of a sigmoid and the logarithm of the number of
            classes of a softmax, are reliable and minimised; ``inf`` takes all.
        unit: what is reliable or not: each ``pixel``, under sigmoids of each class, or the ``image`` as a whole.
        skip_layers: layers whose name contains one of these keep their affine parameters.
        recovery: a stream returns to the source model when the moving average of its loss falls below this
            multiple of the average after its first updates; None never returns.
    """

    rho: Annotated[NonNegative, Tuned(0.005, 0.5, log=True)]
    margin: Annotated[float, Range(0, math.inf), Tuned(0.05, 1)]
    unit: Literal["pixel", "image"]
    skip_layers: tuple[str, ...]
    recovery: Positive | None


@register_method("sar")
class SAR(GradientMethod):
    """Entropy of the reliable pixels, with the gradient taken at the end of a short ascent.

    Args:
        network: as in the base class.
        options: as in the base class.
        protocol: as in the base class.

    Raises:
        UserError: an entry of ``skip_layers`` that no layer's name contains.
    """

    card = Card(
        adapts="affine parameters of normalisation",
        statistics="test image",
        needs_source_statistics=False,
        forwards=3,
        backwards=2,
        paper="Niu et al., ICLR 2023",
        licence="BSD-3-Clause",
        per_stream=("learning_rate", "rho", "margin"),
    )
    Options = SAROptions
    transient = frozenset({"_adapted"})

    def __init__(
        self, network: AdaptableNetwork, options: SAROptions | None = None, protocol: Protocol | None = None
    ) -> None:
        super().__init__(network, options, protocol)
        self._adapted = adapted_columns(network, self.options.skip_layers)

    def start(self, streams: int) -> None:
        """Every row at the source model, with a fresh optimiser and no average of the loss."""
        super().start(streams)
        self.average = self.network.source_theta.new_full((streams,), math.nan)
        self.reference = self.average.clone()
        self._updates = torch.zeros(streams, dtype=torch.long, device=self.average.device)

    def describe(self) -> str:
        """What is adapted and how, for the start of a run."""
        skipped = int((~self._adapted).sum())
        return super().describe() + (f", of which {skipped:,} are left as they are" if skipped else "")

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """One sharpness-aware step on the reliable entropies, then the recovery."""
        theta, reliable = self.theta(len(images)), torch.ones((), dtype=torch.bool, device=images.device)
        margin: float | Tensor = self.option("margin", theta)
        of_each = (margin,) if isinstance(margin, Tensor) else ()

        def objective(network: BoundNetwork) -> Tensor:
            # The second pass chooses among the units that the first one found reliable.
            nonlocal reliable
            settings = {"unit": self.options.unit, "margin": None if of_each else margin}
            losses, reliable = network.replayable(_reliable_entropies, images, reliable, *of_each, **settings)
            return losses

        def gradient_at(theta: Tensor) -> tuple[Tensor, Tensor]:
            losses, gradient = self.gradient(objective, theta)
            return losses, gradient * self._adapted

        first, losses, gradient = sharpness_aware_gradient(gradient_at, theta, self.option("rho", theta))
        rate = self.each("learning_rate", losses)
        # Without a reliable unit there is nothing to learn from: moments and momentum must not move either.
        empty = losses.isfinite() & ~reliable.any(dim=1)
        left_out = self.state.step(gradient, rate, losses.masked_fill(empty, math.nan))
        return {
            "loss_entropy": first,
            "loss_perturbed": losses,
            "selected": reliable.to(losses).mean(1),
            "lr": rate,
            "recovered": self._recover(losses, ~left_out),
            "skipped": left_out & ~empty,
        }

    def gradient_as_followed(self, loss: Callable[[Tensor], Tensor], images: Tensor, theta: Tensor) -> Tensor | None:
        """See the base class: by the parameters of the layers that are not skipped."""
        _, gradient = self.gradient(lambda network: loss(network(images)), theta)
        return gradient * self._adapted

    def _recover(self, losses: Tensor, accepted: Tensor) -> Tensor:
        """Put streams back whose loss has become suspiciously small: bool ``[A]``."""
        count = len(losses)
        if self.options.recovery is None:
            return torch.zeros_like(accepted)
        past = self.average[:count]
        present = torch.where(past.isnan(), losses, torch.lerp(losses, past, AVERAGE_KEEPS))
        self.average[:count] = torch.where(accepted, present, past)
        self._updates[:count] += accepted
        due = accepted & (self._updates[:count] == REFERENCE_UPDATES)
        self.reference[:count] = torch.where(due, self.average[:count], self.reference[:count])
        # Comparisons with an average or a reference that does not exist yet (NaN) are false.
        low = accepted & (self.average[:count] < self.options.recovery * self.reference[:count])
        self.state.reset(low, self.network.source_theta)
        self.average[:count].masked_fill_(low, math.nan)
        return low


def _reliable_entropies(
    network: BoundNetwork, images: Tensor, reliable: Tensor, *of_each: Tensor, unit: str, margin: float | None
) -> tuple[Tensor, Tensor]:
    """Mean entropies of the reliable units, ``[A]``; which these are, bool ``[A, units]``.

    Args:
        network: with its state.
        images: ``[A, 3, H, W]``.
        reliable: those that may be.
        of_each: the margin of every stream, ``[A, 1]``, if they differ.
        unit: ``pixel`` or ``image``.
        margin: of all streams if they do not.
    """
    logits = network(images)
    units = entropies(logits, network.activation).flatten(1)
    if unit == "image":
        units = units.mean(1, keepdim=True)
    limit = (of_each[0] if margin is None else margin) * most_entropy(logits.shape[CLASSES], network.activation)
    reliable = reliable & (units.detach() < limit)
    return masked_mean(units, reliable), reliable


def sharpness_aware_gradient(
    gradient_at: Callable[[Tensor], tuple[Tensor, Tensor]], theta: Tensor, rho: float | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient at the end of an ascent step of length ``rho`` (Foret et al. 2021, Eq. 2-3), each row on its own.

    Args:
        gradient_at: ``theta -> (losses [A], gradient [A, scalars])``.
        theta: ``[A, scalars]``.
        rho: length of the step, one of all or ``[A, 1]``.

    Returns:
        Losses ``[A]`` at ``theta``; losses ``[A]`` and gradient ``[A, scalars]`` at the end of the step.
    """
    first, ascent = gradient_at(theta)
    step = rho * ascent / (ascent.norm(dim=1, keepdim=True) + 1e-12)
    return (first, *gradient_at(theta + step))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each row of ``[A, units]`` over its selected units: ``[A]``, 0 where there are none.

    A value that is not finite makes its row not finite even where it is not selected.
    """
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)


def adapted_columns(network: AdaptableNetwork, skip_layers: tuple[str, ...]) -> Tensor:
    """Bool ``[scalars]``: the columns of theta that belong to no skipped layer.

    Raises:
        UserError: an entry of ``skip_layers`` that no layer's name contains.
    """
    unknown = [part for part in skip_layers if not any(part in name for name in network.layers)]
    if unknown:
        some = ", ".join(list(network.layers)[-3:])
        raise UserError(f"method.skip_layers: no normalisation layer's name contains '{unknown[0]}' (names: {some}, …)")
    adapted = torch.ones_like(network.source_theta, dtype=torch.bool)
    tensors = network.tensor_slices()
    for name, weight, bias in zip(network.layers, tensors[::2], tensors[1::2], strict=True):
        if any(part in name for part in skip_layers):
            adapted[weight.start : bias.stop] = False
    return adapted
