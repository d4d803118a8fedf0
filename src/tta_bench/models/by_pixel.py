"""Mean and variance of maps in either order in memory, and BatchNorm of those that lie pixel by pixel."""

from __future__ import annotations

import math
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.runtime.numerics import placement

_AT_ONCE = 2**17  # numbers whose squares are summed before the next: they stay in the cache of a core


def by_pixel(x: Tensor) -> bool:
    """Whether a map ``[N, C, H, W]`` has the channels of each pixel side by side; never within ``vmap``."""
    return not in_vmap(x) and x.is_contiguous(memory_format=torch.channels_last)


def in_vmap(x: Tensor) -> bool:
    """Whether a tensor stands for one of many that ``torch.vmap`` computes at once: its layout cannot be asked for."""
    return torch._C._functorch.is_batchedtensor(x)


def regular(x: Tensor) -> Tensor:
    """The same map, copied where it is one image ``[1, C, H, W]`` whose first stride is not the size of an image.

    Views of stacks are such. Torch counts them as channels last by some of its questions and not by others, and its
    gradient of a normalisation then writes numbers to the places of others.
    """
    if in_vmap(x) or len(x) > 1 or x.stride(0) >= x.numel():
        return x
    return x.clone(memory_format=torch.channels_last if by_pixel(x) else torch.contiguous_format)


def standardised_by_pixel(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Images by their own statistics, each as ``torch.nn.functional.batch_norm`` in training mode.

    That adds up a channel number by number in this layout, and is a hundred times less exact in 32 bits than where
    channels are planes: mean and variance are measured before, by sums of sums. Activations of 16 bits lose
    nothing by it.

    Args:
        x: ``[N, C, H, W]``.
        weight: ``[N, C]``.
        bias: ``[N, C]``.
        eps: added to the variance.
    """
    if x.dtype != weight.dtype:
        return normalised_by_pixel(x, None, None, weight, bias, eps)
    if _has_graph(x, weight, bias):
        return _Standardised.apply(x, weight, bias, eps)
    return normalised_by_pixel(x, *_measured(x), weight, bias, eps)


def normalised_by_pixel(
    x: Tensor, mean: Tensor | None, variance: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Images ``[N, C, H, W]``, each by rows ``[N, C]`` of its own; torch measures what is None.

    Without a graph each is written to its place among the others, and not copied there.
    """
    measures = mean is None
    given = (repeat(None, len(x)) if each is None else each for each in (mean, variance, weight, bias))
    parts = zip(x.split(1), *given, strict=True)
    if len(x) == 1 or _has_graph(x, weight, bias):
        return _joined([F.batch_norm(image, m, v, w, b, training=measures, eps=eps) for image, m, v, w, b in parts])
    joined, kept = torch.empty_like(x), [weight.new_empty(weight.shape[1] if measures else 0) for _ in range(2)]
    for out, (image, m, v, w, b) in zip(joined.split(1), parts, strict=True):
        torch.ops.aten.native_batch_norm.out(
            image, w, b, m, v, measures, 0.0, eps, out=out, save_mean=kept[0], save_invstd=kept[1]
        )
    return joined


def _joined(images: list[Tensor]) -> Tensor:
    return images[0] if len(images) == 1 else torch.cat(images)


def _has_graph(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(each.requires_grad for each in tensors)


def moments(x: Tensor, correction: int = 0, views: int = 1) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of each image, or of several together, with gradients to ``x``.

    ``torch.var_mean`` moves mean and variance from number to number, which takes a CPU ten times as long as to read the
    map twice and to add up. Of a variance less than a millionth of the mean's square 32 bits lose digits.

    Args:
        x: ``[N * views, C, H, W]`` of 32 or 64 bits, in either order.
        correction: 0 for the biased variance, 1 for the unbiased one.
        views: how many images are measured together.

    Returns:
        Two tensors ``[N, C]``.
    """
    if in_vmap(x) or not placement(x.device, x.dtype).measures_twice:
        variance, mean = torch.var_mean(x.unflatten(0, (-1, views)), dim=(1, 3, 4), correction=correction)
        return mean, variance
    mean, variance = _Moments.apply(x)
    if views > 1:
        means, variances = (each.unflatten(0, (-1, views)) for each in (mean, variance))
        mean = means.mean(1)
        variance = (variances + (means - mean[:, None]).square()).mean(1)
    return mean, unbiased(variance, views * x.shape[2:].numel()) if correction else variance


def unbiased(variance: Tensor, count: int) -> Tensor:
    """The variance of so many numbers with Bessel's correction; of a single one there is none."""
    return variance * (count / (count - 1) if count > 1 else math.nan)


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = _measured(x)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        of_mean, of_variance = (each[:, :, None, None] / x.shape[2:].numel() for each in gradients)
        return torch.addcmul(of_mean, x - mean[:, :, None, None], 2 * of_variance)


def _measured(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of each image, ``[N, C]``."""
    mean, variance = zip(*map(_statistics, x.split(1)), strict=True)
    return torch.stack(mean), torch.stack(variance)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, ``[C]``, of an image ``[1, C, H, W]``.

    No sum is of a single column or row: its numbers would be shared among threads, whose number would decide its bits.
    """
    channels = x.shape[1]
    if not by_pixel(x) or channels == 1:
        planes = x.reshape(1, -1).expand(2, -1) if channels == 1 else x[0].flatten(1)
        mean, variance = _of_planes(planes)
        return mean[:channels], variance[:channels]
    pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
    mean = pixels.sum(0) / len(pixels)
    if pixels.numel() <= _AT_ONCE:
        return mean, (pixels - mean).square_().sum(0) / len(pixels)
    parts = pixels.split(max(1, _AT_ONCE // channels))
    return mean, torch.stack([(part - mean).square_().sum(0) for part in parts]).sum(0) / len(pixels)


def _of_planes(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each row of ``[C, numbers]``."""
    channels, count = planes.shape
    mean = planes.sum(1, keepdim=True) / count
    parts = max(1, channels // max(2, _AT_ONCE // count))
    pairs = zip(planes.tensor_split(parts), mean.tensor_split(parts), strict=True)
    return mean[:, 0], torch.cat([(part - middle).square_().sum(1) for part, middle in pairs]) / count


class _Standardised(torch.autograd.Function):
    """With the gradient through the statistics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        mean, variance = _measured(x)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        return normalised_by_pixel(x, mean, variance, weight, bias, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[:3])
        kernel = torch.ops.aten.native_batch_norm_backward
        parts = zip(gradients[0].split(1), x.split(1), weight, mean, scale, strict=True)
        found = [kernel(of, image, w, None, None, m, s, True, ctx.eps, needed) for of, image, w, m, s in parts]
        of_x, *of_rows = zip(*found, strict=True)
        of_images = _joined(list(of_x)) if needed[0] else None
        asked = zip(needed[1:], of_rows, strict=True)
        return of_images, *(torch.stack(each) if wanted else None for wanted, each in asked), None
