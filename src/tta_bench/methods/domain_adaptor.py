"""DomainAdaptor: mixed statistics and generalised entropy minimisation (Zhang et al., ICCV 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from typing import Annotated, Literal

import torch
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.methods.base import Card, Diagnostics, GradientMethod, GradientOptions, Protocol, register_method
from tta_bench.methods.space import Tuned
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import MixedStatistics, RectifiedStatistics
from tta_bench.models.normalisation_layer import NormalisationLayer
from tta_bench.ops.draws import Draws
from tta_bench.ops.probabilities import CLASSES, Activation, entropies
from tta_bench.runtime.ranges import Fraction

SMALLEST_TEMPERATURE = 1e-3
"""Of the generalised entropy, which divides by its temperature."""

Temperature = Literal["image", "pixel"]

IMAGE_STATISTICS = MixedStatistics(0.0, unbiased=True)
"""Those that the transform refers to; as in the official code the variance is the unbiased one."""


@dataclass(frozen=True)
class DomainAdaptorOptions(GradientOptions):
    """Options of DomainAdaptor.

    Attributes:
        source_weight: of the source statistics in the mixture, in [0, 1].
        temperature: of the entropy: one per ``image``, or one per ``pixel``; under sigmoids one of each class.
    """

    source_weight: Annotated[Fraction, Tuned(0, 1)]
    temperature: Temperature


@dataclass(frozen=True)
class Rectification:
    """The linear map from affine parameters to those that go with the statistics of the image.

    ``weight' = scale * weight``, ``bias' = bias + shift * weight``, with rows ``[A, scalars]`` on either side.

    Attributes:
        scale: ``[A, channels]``, positive, of the adapted BatchNorm layers.
        shift: ``[A, channels]``.
        weights: ``[channels]``, which columns of a row are scales of these layers.
        biases: ``[channels]``, which are shifts. All other columns stay as they are.
    """

    scale: Tensor
    shift: Tensor
    weights: Tensor
    biases: Tensor

    def apply(self, theta: Tensor) -> Tensor:
        """The rectified parameters of ``theta``."""
        weight = theta[:, self.weights]
        return self._row(theta, self.scale * weight, theta[:, self.biases] + self.shift * weight)

    def undo(self, rectified: Tensor) -> Tensor:
        """The parameters whose rectified ones are given."""
        weight = rectified[:, self.weights] / self.scale
        return self._row(rectified, weight, rectified[:, self.biases] - self.shift * weight)

    def gradient(self, gradient: Tensor) -> Tensor:
        """The gradient with respect to the rectified parameters, from that with respect to the parameters."""
        bias = gradient[:, self.biases]
        return self._row(gradient, (gradient[:, self.weights] - self.shift * bias) / self.scale, bias)

    def _row(self, row: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        row = row.clone()
        row[:, self.weights], row[:, self.biases] = weight, bias
        return row


@register_method("domain_adaptor")
class DomainAdaptor(GradientMethod):
    """A generalised-entropy step on the rectified parameters of a mixture of source and image statistics.

    The state is kept in the source model's parametrisation: every image has a transform of its own, into which the
    parameters are taken before the step and out of which they come after it.
    """

    card = Card(
        adapts="affine parameters of normalisation",
        statistics="source domain and test image, mixed",
        needs_source_statistics=True,
        forwards=2,
        backwards=1,
        paper="Zhang et al., ICCV 2023",
        licence="none stated",
        needs_batch_norm=True,
        per_stream=("learning_rate",),
    )
    Options = DomainAdaptorOptions
    transient = frozenset({"_weights", "_biases", "_adapted", "rectification"})

    def __init__(
        self, network: AdaptableNetwork, options: DomainAdaptorOptions | None = None, protocol: Protocol | None = None
    ) -> None:
        super().__init__(network, options, protocol)
        unfit = [
            name for name, layer in network.batch_norm_layers.items() if name in network.reused or not layer.affine
        ]
        if unfit:
            raise UserError(
                "DomainAdaptor writes the statistics of an image into the scale and shift of each BatchNorm layer, but "
                f"{', '.join(unfit[:3])} lacks them, or normalises in several places: "
                "choose another method, or another network"
            )
        self.statistics = MixedStatistics(self.options.source_weight, unbiased=True)
        columns = torch.arange(network.source_theta.numel(), device=network.source_theta.device)
        parts = [columns[tensor] for tensor in network.tensor_slices()]
        is_mixed = [isinstance(layer, NormalisationLayer) for layer in network.layers.values()]
        self._weights, self._biases = (torch.cat(list(compress(parts[k::2], is_mixed))) for k in (0, 1))

    def start(self, streams: int) -> None:
        """Every row at the source model, with a fresh optimiser."""
        super().start(streams)
        self._adapted: Tensor | None = None

    def adapt(self, images: Tensor, draws: Draws) -> Diagnostics:
        """Transform, one step in the transformed parameters, and back."""
        theta = self.theta(len(images)).clone()
        losses, gradient, self.rectification = self._rectified_gradient(
            lambda logits: generalised_entropy(logits, self.options.temperature, self.network.activation), images, theta
        )
        rate = self.each("learning_rate", losses)
        skipped = self.state.step(gradient, rate, losses)
        # The optimiser's step does not depend on where it starts, and the transform is linear: the step comes back.
        step = self.rectification.undo(self.theta(len(images)) - theta)
        self.state.theta[: len(images)] = torch.where(skipped[:, None], theta, theta + step)
        self._adapted = images
        return {"loss_gem": losses, "lr": rate, "skipped": skipped}

    def gradient_as_followed(self, loss: Callable[[Tensor], Tensor], images: Tensor, theta: Tensor) -> Tensor | None:
        """See the base class: by the rectified parameters."""
        _, gradient, _ = self._rectified_gradient(loss, images, theta)
        return gradient

    def predict(self, images: Tensor) -> Tensor:
        """Logits ``[A, classes, H, W]``.

        Images that have just been adapted to are predicted with their transform as it was for the update, others
        with a mixture of their own.
        """
        if images is not self._adapted:
            return super().predict(images)
        return self.network(images, self.rectification.apply(self.theta(len(images))), IMAGE_STATISTICS)

    def _rectified_gradient(
        self, loss: Callable[[Tensor], Tensor], images: Tensor, theta: Tensor
    ) -> tuple[Tensor, Tensor, Rectification]:
        """Losses ``[A]`` of the logits, their gradients by the rectified parameters, and the images' transform."""
        shift = torch.zeros_like(self.network.source_statistics[0]).repeat(len(images), 1)
        transforms = RectifiedStatistics(self.options.source_weight, torch.ones_like(shift), shift)
        losses, gradient = self.gradient(lambda network: loss(network(images)), theta, transforms)
        rectification = self._rectification(transforms)
        return losses, rectification.gradient(gradient), rectification

    def _rectification(self, transforms: RectifiedStatistics) -> Rectification:
        """The transforms of the adapted layers, in the order of a row of theta."""
        layers = self.network.layers.values()
        slices = [layer.channel_slice for layer in layers if isinstance(layer, NormalisationLayer)]
        scale, shift = (
            torch.cat([each[:, part] for part in slices], dim=1) for each in (transforms.scale, transforms.shift)
        )
        return Rectification(scale, shift, self._weights, self._biases)


def generalised_entropy(logits: Tensor, temperature: Temperature, activation: Activation = "sigmoid") -> Tensor:
    """Generalised entropy of logits ``[A, classes, H, W]``: ``mean of T^2 H(s / T)``, ``[A]``.

    Args:
        logits: of the network.
        temperature: ``T``, a constant, is twice :func:`deviation` per image or per pixel.
        activation: what the logits stand for.
    """
    scale = (2 * deviation(logits.detach(), temperature, activation)).clamp(min=SMALLEST_TEMPERATURE)
    return (scale.square() * entropies(logits / scale, activation)).flatten(1).mean(1)


def deviation(logits: Tensor, temperature: Temperature, activation: Activation) -> Tensor:
    """Standard deviation of logits, of the shape that they are divided by.

    ``pixel``: over the classes, as in the paper; a sigmoid ``s`` stands for the pair ``(s, 0)``. ``image``: over the
    pixels, of the logit of each sigmoid, or of the difference between two classes of a softmax, all pairs alike.
    """
    if activation == "softmax":
        others = logits.shape[CLASSES] - 1
        centred = logits - logits.mean(CLASSES, keepdim=True)
        if temperature == "pixel":
            return (centred.square().sum(CLASSES, keepdim=True) / others).sqrt()
        return (2 * centred.flatten(2).var(dim=2).sum(1) / others).sqrt()[:, None, None, None]
    if temperature == "pixel":
        return logits.abs() / math.sqrt(2)
    return logits.flatten(2).std(dim=2)[:, :, None, None]
