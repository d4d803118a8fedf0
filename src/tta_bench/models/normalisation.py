"""Which statistics a normalisation layer uses: explicit policies, one for every method.

A policy never looks at ``module.training`` and never writes to the source statistics, so no method can leave
anything behind for the next one. Shapes: ``S`` streams, ``V`` views of each stream's image, ``C`` channels;
``x`` is ``[S * V, C, H, W]`` with the views of one stream next to each other.

Every policy computes ``weight * (x - mean) / sqrt(variance + eps) + bias``; they differ in mean and variance:

============================ =========================================================================
:class:`SourceStatistics`    stored with the source model
:class:`BatchStatistics`     of the image itself, biased variance
:class:`MixedStatistics`     ``w * source + (1 - w) * image``, no cross term (Schneider et al. 2020)
:class:`AlignedStatistics`   as mixed, per stream and constant; records how far the image is from it (VPTTA, CVPR 2024)
:class:`MedianStatistics`    channel median, mean squared deviation from it (MedBN, CVPR 2024)
:class:`RunningStatistics`   an exponential average per stream, updated on request (DUA, CVPR 2022)
:class:`RectifiedStatistics` as mixed, written as a transform of the affine parameters (DomainAdaptor, ICCV 2023)
============================ =========================================================================
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.models.by_pixel import by_pixel, in_vmap, moments, normalised_by_pixel, standardised_by_pixel, unbiased
from tta_bench.models.upsampled import Upsampled
from tta_bench.runtime.numerics import placement

if TYPE_CHECKING:
    from tta_bench.models.normalisation_layer import NormalisationLayer


OneKernel = Callable[[Tensor | None, Tensor | None, bool, bool], Tensor]
"""Shift, residual, whether to rectify before and after, as in ``normalised``, to the result."""


class Statistics:
    """Which mean and variance a normalisation layer uses."""

    per_image = True
    """Whether an image's result is independent of the other images and of its stream's place in the batch."""

    pools_views = False
    """Whether the views of a stream are measured together."""

    takes_16_bits = False
    """Whether its kernel measures activations of 16 bits in 32 bits; for others they are widened before."""

    def settings(self) -> tuple[object, ...] | None:
        """What decides its results besides its arguments; None (the default) where it holds tensors of its own."""
        return None

    def in_one_kernel(self, x: Tensor | Upsampled, weight: Tensor, bias: Tensor, eps: float) -> OneKernel | None:
        """What normalises ``x`` with what comes before and after it in the network; None (the default) for nothing."""
        return None

    @abstractmethod
    def normalise(self, x: Tensor, weight: Tensor, bias: Tensor, layer: NormalisationLayer) -> Tensor:
        """Normalise ``x`` ``[S * V, C, H, W]`` with affine rows ``weight`` and ``bias`` ``[S, C]``."""


class SourceStatistics(Statistics):
    """The statistics stored with the source model."""

    takes_16_bits = True

    def settings(self) -> tuple[object, ...]:
        """See :class:`Statistics`."""
        return ()

    def normalise(self, x: Tensor, weight: Tensor, bias: Tensor, layer: NormalisationLayer) -> Tensor:
        """See :class:`Statistics`."""
        count = weight.shape[0]
        mean, variance = layer.source_mean.expand(count, -1), layer.source_variance.expand(count, -1)
        return _with_fixed_statistics(x, mean, variance, weight, bias, layer.eps)


class BatchStatistics(Statistics):
    """The statistics of each image on its own.

    At one image per stream this is the "statistics recollected from the test image" of TENT and GraTa. The
    variance is the biased one; gradients flow through both statistics.
    """

    takes_16_bits = True

    def settings(self) -> tuple[object, ...]:
        """See :class:`Statistics`."""
        return ()

    def normalise(self, x: Tensor, weight: Tensor, bias: Tensor, layer: NormalisationLayer) -> Tensor:
        """See :class:`Statistics`."""
        views = x.shape[0] // weight.shape[0]
        weight, bias = _per_image(weight, views), _per_image(bias, views)
        if by_pixel(x):
            # Side by side as channels of one image, as below, several images would have to be copied.
            return standardised_by_pixel(x, weight, bias, layer.eps)
        folded, weight, bias = _side_by_side(x), weight.reshape(-1), bias.reshape(-1)
        if placement(x.device, x.dtype).channels_as_groups and folded.is_contiguous():
            # One group per channel has the same statistics.
            out = F.group_norm(folded, len(weight), weight, bias, layer.eps)
        else:
            out = F.batch_norm(folded, None, None, weight, bias, training=True, eps=layer.eps)
        return _reshaped(out, x.shape)

    def in_one_kernel(self, x: Tensor | Upsampled, weight: Tensor, bias: Tensor, eps: float) -> OneKernel | None:
        """See :class:`Statistics`."""
        if not placement(x.device, x.dtype).one_kernel:
            return None
        if isinstance(x, Tensor):
            is_dense = not in_vmap(x) and (x.is_contiguous() or by_pixel(x))
            if not is_dense or x.dtype not in (torch.float32, torch.bfloat16):
                return None
        from tta_bench.models.kernels import standardised, work_on  # of Triton, which a GPU alone needs

        if not work_on(x.device):
            return None
        views = x.shape[0] // weight.shape[0]
        return partial(standardised, x, _per_image(weight, views), _per_image(bias, views), eps)


class MixedStatistics(Statistics):
    """``source_weight * source + (1 - source_weight) * image`` for mean and variance.

    Called alpha-BN elsewhere, where alpha is the weight of either side; hence the explicit name.

    Args:
        source_weight: 1 gives the source statistics, 0 those of the image.
        unbiased: use the unbiased variance of the image (Schneider et al. 2020; DIGA uses the biased one).
        differentiable: let gradients flow through the statistics of the image.
    """

    def __init__(self, source_weight: float, unbiased: bool = False, differentiable: bool = True) -> None:
        if not 0 <= source_weight <= 1:
            raise ValueError(f"source_weight={source_weight} must lie in [0, 1]")
        self.source_weight = source_weight
        self.correction = int(unbiased)
        self.differentiable = differentiable

    def settings(self) -> tuple[object, ...]:
        """See :class:`Statistics`."""
        return self.source_weight, self.correction, self.differentiable

    def normalise(self, x: Tensor, weight: Tensor, bias: Tensor, layer: NormalisationLayer) -> Tensor:
        """See :class:`Statistics`."""
        measured = x if self.differentiable else x.detach()
        mean, variance = moments(measured, self.correction)
        mean = torch.lerp(mean, layer.source_mean.expand_as(mean), self.source_weight)
        variance = torch.lerp(variance, layer.source_variance.expand_as(variance), self.source_weight)
        return _affine(x, mean, variance, weight, bias, layer.eps)


class AlignedStatistics(Statistics):
    """A mixture as in :class:`MixedStatistics`, unbiased, that counts as a constant; gradients flow through ``x``.

    Args:
        source_weight: one per stream, ``[S, 1]`` in [0, 1].

    Attributes:
        distances: per layer that a forward pass reaches, how far the image's mean and standard deviation are from
            those of the mixture: ``[S * V]``, each the mean absolute difference over the channels, summed.
    """

    per_image = False

    def __init__(self, source_weight: Tensor) -> None:
        self.source_weight = source_weight
        self.distances: list[Tensor] = []

    def normalise(self, x: Tensor, weight: Tensor, bias: Tensor, layer: NormalisationLayer) -> Tensor:
        """See :class:`Statistics`."""
        source_weight = _per_image(self.source_weight, x.shape[0] // weight.shape[0])
        mean, variance = moments(x, correction=1)
        deviation = _root(variance, mean)
        with torch.no_grad():
            mixed_mean = torch.lerp(mean, layer.source_mean.expand_as(mean), source_weight)
            mixed_variance = torch.lerp(variance, layer.source_variance.expand_as(variance), source_weight)
        self.distances.append(
            (mixed_mean - mean).abs().mean(dim=1) + (mixed_variance.sqrt() - deviation).abs().mean(dim=1)
        )
        return _affine(x, mixed_mean, mixed_variance, weight, bias, layer.eps)


class MedianStatistics(Statistics):
    """The median of each channel and the mean squared deviation from it (MedBN).

    Of an even number of values the lower middle one is the median, as in ``torch.median`` and the authors' code.
    """

    def settings(self) -> tuple[object, ...]:
        """See :class:`Statistics`."""
        return ()

    def normalise(self, x: Tensor, weight: Tensor, bias: Tensor, layer: NormalisationLayer) -> Tensor:
        """See :class:`Statistics`."""
        planes = x.flatten(2).contiguous()
        median = planes.median(dim=2).values
        variance = (planes - median[:, :, None]).square().mean(dim=2)
        return _affine(x, median, variance, weight, bias, layer.eps)


@dataclass
class RunningStatistics(Statistics):
    """An exponential average per stream, starting at the source statistics.

    With ``momentum`` None the stored average normalises. With a momentum the layer normalises by the statistics
    of all views of the stream, as ``BatchNorm2d`` does in training, and moves the average towards them:
    ``(1 - momentum) * average + momentum * current``, unbiased variance.

    Attributes:
        mean: ``[S, channels of all layers]``, updated in place.
        variance: likewise.
        momentum: weight of the current image, ``[S, 1]`` for one per stream, or None.
    """

    mean: Tensor
    variance: Tensor
    momentum: float | Tensor | None = None

    per_image = False
    pools_views = True

    def normalise(self, x: Tensor, weight: Tensor, bias: Tensor, layer: NormalisationLayer) -> Tensor:
        """See :class:`Statistics`."""
        mean, variance = self.mean[:, layer.channel_slice], self.variance[:, layer.channel_slice]
        if self.momentum is None:
            return _with_fixed_statistics(x, mean, variance, weight, bias, layer.eps)
        views = len(x) // len(weight)
        current_mean, current_variance = moments(x, views=views)
        with torch.no_grad():
            mean.lerp_(current_mean, self.momentum)
            variance.lerp_(unbiased(current_variance, views * x.shape[2:].numel()), self.momentum)
        return _affine(x, current_mean, current_variance, weight, bias, layer.eps)


@dataclass
class RectifiedStatistics(Statistics):
    """``MixedStatistics(source_weight, unbiased=True)``, written as a transform of the affine parameters.

    Each layer normalises by the statistics of the image itself, with ``scale * weight`` and ``bias + shift * weight``
    (:func:`rectification`). The output is that of the mixture. The gradient is not: the transform counts as a
    constant, as if the transformed parameters were what is learnt.

    Attributes:
        source_weight: in [0, 1].
        scale: ``[S * V, channels of all layers]``, written by every layer that a forward pass reaches.
        shift: likewise.
    """

    source_weight: float
    scale: Tensor
    shift: Tensor

    per_image = False

    def normalise(self, x: Tensor, weight: Tensor, bias: Tensor, layer: NormalisationLayer) -> Tensor:
        """See :class:`Statistics`."""
        views = x.shape[0] // weight.shape[0]
        weight, bias = _per_image(weight, views), _per_image(bias, views)
        mean, variance = moments(x, correction=1)
        source = layer.source_mean, layer.source_variance
        scale, shift = rectification(mean.detach(), variance.detach(), *source, self.source_weight, layer.eps)
        self.scale[:, layer.channel_slice], self.shift[:, layer.channel_slice] = scale, shift
        return _affine(x, mean, variance, scale * weight, bias + shift * weight, layer.eps)


def rectification(
    mean: Tensor, variance: Tensor, source_mean: Tensor, source_variance: Tensor, source_weight: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Scale and shift ``[S, C]`` that turn normalisation by an image's statistics into that by a mixture.

    ``scale * (x - mean) / sqrt(variance + eps) + shift = (x - mixed mean) / sqrt(mixed variance + eps)``

    Args:
        mean: of the image, ``[S, C]``.
        variance: of the image, ``[S, C]``.
        source_mean: ``[C]``.
        source_variance: ``[C]``.
        source_weight: weight of the source statistics in the mixture, in [0, 1].
        eps: of the layer.
    """
    mixed = torch.sqrt(torch.lerp(variance, source_variance.expand_as(variance), source_weight) + eps)
    return torch.sqrt(variance + eps) / mixed, source_weight * (mean - source_mean) / mixed


def _root(variance: Tensor, mean: Tensor) -> Tensor:
    """The standard deviation; zero, and so its gradient, of a channel whose variance is the rounding of its mean."""
    varies = variance > (16 * torch.finfo(mean.dtype).eps * mean).square()
    return torch.where(varies, variance, 1).sqrt() * varies


def _per_image(rows: Tensor, views: int) -> Tensor:
    """One row per image from one row per stream."""
    if views == 1:
        return rows
    return rows.expand(views, -1) if len(rows) == 1 else rows.repeat_interleave(views, dim=0)


def _side_by_side(x: Tensor) -> Tensor:
    """``[N, C, H, W]`` to ``[1, N * C, H, W]``: one kernel call normalises every image on its own."""
    return x.reshape(1, -1, *x.shape[2:])


def _reshaped(made: Tensor, shape: torch.Size) -> Tensor:
    """A tensor that nothing else refers to, in another shape.

    Autograd does not take the result for a view, so that an activation in place, which comes next, costs no copies.
    """
    return made if made.shape == shape else torch.ops.aten._unsafe_view(made, shape)


def _with_fixed_statistics(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Normalise by given statistics ``[S, C]``, in one kernel."""
    if len(weight) == 1 and by_pixel(x):
        return F.batch_norm(x, mean[0], variance[0], weight[0], bias[0], training=False, eps=eps)
    views = x.shape[0] // weight.shape[0]
    mean, variance, weight, bias = (_per_image(row, views) for row in (mean, variance, weight, bias))
    if by_pixel(x):
        if placement(x.device, x.dtype).one_kernel:
            return _affine(x.to(weight.dtype), mean, variance, weight, bias, eps).to(x.dtype)
        return normalised_by_pixel(x, mean, variance, weight, bias, eps)
    mean, variance, weight, bias = (row.reshape(-1) for row in (mean, variance, weight, bias))
    return _reshaped(F.batch_norm(_side_by_side(x), mean, variance, weight, bias, training=False, eps=eps), x.shape)


def _affine(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise by differentiable statistics of images ``[S * V, C]`` or streams ``[S, C]``; affine rows ``[S, C]``."""
    views = len(mean) // len(weight)
    scale = _per_image(weight, views) * (variance + eps).rsqrt()
    shift = _per_image(bias, views) - mean * scale
    scale, shift = (_per_image(rows, len(x) // len(mean))[:, :, None, None] for rows in (scale, shift))
    return torch.addcmul(shift, x, scale)
