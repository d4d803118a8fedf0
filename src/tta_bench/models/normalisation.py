"""Which statistics a normalisation layer uses: explicit policies, one for every method.

A policy never looks at ``module.training`` and never writes to the source statistics, so no method can leave
anything behind for the next one. Shapes: ``S`` streams, ``V`` views of each stream's image, ``C`` channels;
``x`` is ``[S * V, C, H, W]`` with the views of one stream next to each other.

Every policy computes ``weight * (x - mean) / sqrt(variance + eps) + bias``; they differ in mean and variance:

============================ =========================================================================
:class:`SourceStatistics`    stored with the source model
:class:`BatchStatistics`     of the image itself (or of all views of a stream), biased variance
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
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.models.by_pixel import by_pixel, in_vmap, standardised_by_pixel
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

    takes_all = False
    """Whether its kernel measures activations of 16 bits in 32 bits, and channels last as they lie.

    For others, whose reductions over single planes are slow there, activations are widened and laid out before.
    """

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

    takes_all = True

    def settings(self) -> tuple[object, ...]:
        """See :class:`Statistics`."""
        return ()

    def normalise(self, x: Tensor, weight: Tensor, bias: Tensor, layer: NormalisationLayer) -> Tensor:
        """See :class:`Statistics`."""
        count = weight.shape[0]
        mean, variance = layer.source_mean.expand(count, -1), layer.source_variance.expand(count, -1)
        return _with_fixed_statistics(x, mean, variance, weight, bias, layer.eps)


class BatchStatistics(Statistics):
    """The statistics of each image on its own; with ``pool_views``, of all views of a stream together.

    At one image per stream this is the "statistics recollected from the test image" of TENT and GraTa. The
    variance is the biased one; gradients flow through both statistics.
    """

    takes_all = True

    def __init__(self, pool_views: bool = False) -> None:
        self.pools_views = pool_views
        self.per_image = not pool_views

    def settings(self) -> tuple[object, ...]:
        """See :class:`Statistics`."""
        return (self.pools_views,)

    def normalise(self, x: Tensor, weight: Tensor, bias: Tensor, layer: NormalisationLayer) -> Tensor:
        """See :class:`Statistics`."""
        views = x.shape[0] // weight.shape[0]
        if not self.pools_views:
            weight, bias, views = _per_image(weight, views), _per_image(bias, views), 1
        if views == 1 and by_pixel(x):
            # Side by side as channels of one image, as below, several images would have to be copied.
            parts = list(zip(x.split(1), weight, bias, strict=True))
            made = [standardised_by_pixel(each, w, b, layer.eps) for each, w, b in parts]
            return made[0] if len(made) == 1 else torch.cat(made)
        folded, weight, bias = _fold(x, views), weight.reshape(-1), bias.reshape(-1)
        if views == 1 and placement(x.device, x.dtype).channels_as_groups and folded.is_contiguous():
            # One group per channel has the same statistics.
            out = F.group_norm(folded, len(weight), weight, bias, layer.eps)
        else:
            out = F.batch_norm(folded, None, None, weight, bias, training=True, eps=layer.eps)
        return _unfold(out, x.shape, views)

    def in_one_kernel(self, x: Tensor | Upsampled, weight: Tensor, bias: Tensor, eps: float) -> OneKernel | None:
        """See :class:`Statistics`."""
        views = x.shape[0] // weight.shape[0]
        pooled = views if self.pools_views else 1
        if not placement(x.device, x.dtype).one_kernel:
            return None
        if isinstance(x, Upsampled) and pooled > 1:
            x = x.laid_out()
        maps = _map_per_row(x, pooled) if isinstance(x, Tensor) else x
        if maps is None:
            return None
        from tta_bench.models.kernels import standardised, work_on  # of Triton, which a GPU alone needs

        if not work_on(x.device):
            return None
        weight, bias = _per_image(weight, views // pooled), _per_image(bias, views // pooled)

        def one(shift: Tensor | None, residual: Tensor | None, before: bool, after: bool) -> Tensor:
            if residual is not None and pooled > 1:
                residual = _map_per_row(residual.contiguous(memory_format=torch.channels_last), pooled)
            return _map_per_image(standardised(maps, weight, bias, eps, shift, residual, before, after), pooled)

        return one


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
        variance, mean = torch.var_mean(measured, dim=(2, 3), correction=self.correction)
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
        # Unlike the root of a variance, torch's deviation of a constant channel has a gradient: zero.
        deviation, mean = torch.std_mean(x, dim=(2, 3), correction=1)
        with torch.no_grad():
            mixed_mean = torch.lerp(mean, layer.source_mean.expand_as(mean), source_weight)
            variance = deviation.square()
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
        median = x.flatten(2).median(dim=2).values
        variance = (x - median[:, :, None, None]).square().mean(dim=(2, 3))
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
        with torch.no_grad():
            per_stream = x.unflatten(0, (weight.shape[0], -1))
            current_variance, current_mean = torch.var_mean(per_stream, dim=(1, 3, 4), correction=1)
            mean.lerp_(current_mean, self.momentum)
            variance.lerp_(current_variance, self.momentum)
        return BatchStatistics(pool_views=True).normalise(x, weight, bias, layer)


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
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=1)
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


def _per_image(rows: Tensor, views: int) -> Tensor:
    """One row per image from one row per stream."""
    return rows if views == 1 else rows.repeat_interleave(views, dim=0)


def _map_per_row(x: Tensor, pooled: int) -> Tensor | None:
    """``[S * pooled, C, H, W]`` as ``[S, C, pooled * H, W]`` without a copy; None where that cannot be."""
    if in_vmap(x) or x.dtype not in (torch.float32, torch.bfloat16):
        return None
    if pooled == 1:
        return x if x.is_contiguous() or by_pixel(x) else None
    if not by_pixel(x):
        return None
    return x.permute(0, 2, 3, 1).reshape(-1, pooled * x.shape[2], x.shape[3], x.shape[1]).permute(0, 3, 1, 2)


def _map_per_image(x: Tensor, pooled: int) -> Tensor:
    """Inverse of :func:`_map_per_row`."""
    if pooled == 1:
        return x
    return x.permute(0, 2, 3, 1).reshape(len(x) * pooled, -1, x.shape[3], x.shape[1]).permute(0, 3, 1, 2)


def _fold(x: Tensor, pooled: int) -> Tensor:
    """``[S * pooled, C, H, W]`` to ``[pooled, S * C, H, W]``: one kernel call normalises every stream on its own."""
    count, channels, height, width = x.shape
    if pooled == count:
        return x
    if pooled == 1:
        return x.reshape(1, count * channels, height, width)
    return x.unflatten(0, (-1, pooled)).transpose(0, 1).reshape(pooled, -1, height, width)


def _unfold(folded: Tensor, shape: torch.Size, pooled: int) -> Tensor:
    """Inverse of :func:`_fold`."""
    if pooled in (1, shape[0]):
        return _reshaped(folded, shape)
    return folded.unflatten(1, (-1, shape[1])).transpose(0, 1).reshape(shape)


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
    if placement(x.device, x.dtype).one_kernel and by_pixel(x):
        return _affine(x.to(weight.dtype), _per_image(mean, views), _per_image(variance, views), weight, bias, eps).to(
            x.dtype
        )
    mean, variance, weight, bias = (_per_image(row, views).reshape(-1) for row in (mean, variance, weight, bias))
    return _reshaped(F.batch_norm(_fold(x, 1), mean, variance, weight, bias, training=False, eps=eps), x.shape)


def _affine(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise by differentiable statistics ``[S * V, C]`` with affine rows ``[S, C]``."""
    views = x.shape[0] // weight.shape[0]
    scale = _per_image(weight, views) * (variance + eps).rsqrt()
    shift = _per_image(bias, views) - mean * scale
    return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])
