"""BatchNorm of images whose pixels have their channels side by side, as exact as of maps that lie plane by plane."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_AT_ONCE = 2**17  # numbers whose squares are summed before the next: they stay in the cache of a core


def by_pixel(x: Tensor) -> bool:
    """Whether a map ``[N, C, H, W]`` has the channels of each pixel side by side; never within ``vmap``."""
    return not in_vmap(x) and x.is_contiguous(memory_format=torch.channels_last)


def in_vmap(x: Tensor) -> bool:
    """Whether a tensor stands for one of many that ``torch.vmap`` computes at once: its layout cannot be asked for."""
    return torch._C._functorch.is_batchedtensor(x)


def standardised_by_pixel(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """An image by its own statistics, as ``torch.nn.functional.batch_norm`` in training mode.

    That adds up a channel number by number in this layout, and is a hundred times less exact in 32 bits than where
    channels are planes: mean and variance are measured before, by sums of sums. Activations of 16 bits lose
    nothing by it.

    Args:
        x: ``[1, C, H, W]``.
        weight: ``[C]``.
        bias: ``[C]``.
        eps: added to the variance.
    """
    if x.dtype != weight.dtype:
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or bias.requires_grad):
        return _Standardised.apply(x, weight, bias, eps)
    return F.batch_norm(x, *_statistics(x), weight, bias, training=False, eps=eps)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, ``[C]``."""
    pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    mean = pixels.sum(0) / len(pixels)
    if pixels.numel() <= _AT_ONCE:
        return mean, (pixels - mean).square_().sum(0) / len(pixels)
    parts = pixels.split(max(1, _AT_ONCE // x.shape[1]))
    return mean, torch.stack([(part - mean).square_().sum(0) for part in parts]).sum(0) / len(pixels)


class _Standardised(torch.autograd.Function):
    """With the gradient through the statistics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        mean, variance = _statistics(x)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[:3])
        kernel = torch.ops.aten.native_batch_norm_backward
        found = kernel(gradients[0], x, weight, None, None, mean, scale, True, ctx.eps, needed)
        return (*(each if asked else None for each, asked in zip(found, needed, strict=True)), None)
