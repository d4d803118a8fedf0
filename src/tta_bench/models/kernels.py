"""Kernels of a GPU for a normalisation by each image's own statistics, in whatever order its numbers lie in memory.

Two launches forwards and two backwards. The first of each measures parts of an image, the second adds them up and
applies them, both in 32 bits and always in the same order, so that results do not change from run to run. Torch's own
kernels take one block of a GPU for each channel of an image, and copy maps that lie pixel by pixel.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tta_bench.runtime.files import warn_once

log = logging.getLogger(__name__)

NUMBERS_PER_TILE = 4096
CHANNELS_PER_TILE = 64
BLOCKS = 1024
"""That a launch should have for a GPU to be busy."""

PARTS = 64
"""At most; one number for all shapes, as those above, because every other is compiled anew."""


@cache
def work_on(device: torch.device) -> bool:
    """Whether the kernels can be compiled for a device: Triton wants a C compiler, for instance."""
    try:
        x = torch.ones(1, 2, 4, 4, device=device)
        standardised(x, x[:, :, 0, 0], x[:, :, 0, 0], 1e-5)
    except Exception as error:  # of any kind: whatever is wrong with a compiler
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        warn_once(
            log, f"normalisation is computed by torch's kernels, which are slower: Triton does not work ({reason})"
        )
        return False
    return True


def standardised(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    rectified_before: bool = False,
    rectified_after: bool = False,
) -> Tensor:
    """``weight * (x + shift - mean) / sqrt(variance + eps) + bias + residual``, by each image's biased variance.

    Args:
        x: ``[N, C, H, W]`` on a GPU, of 32 or 16 bits, dense, plane by plane or pixel by pixel.
        weight: ``[N, C]``, 32 bits.
        bias: ``[N, C]``, 32 bits.
        eps: added to the variance.
        shift: ``[C]``, added to ``x`` before; without a gradient.
        residual: as ``x``, or None.
        rectified_before: whether negative numbers of ``x + shift`` count as 0.
        rectified_after: whether negative results become 0.

    Returns:
        As ``x``, with gradients to all tensors.
    """
    if residual is not None and residual.stride() != x.stride():
        residual = torch.empty_like(x).copy_(residual)
    how = eps, rectified_before, rectified_after
    return _Standardised.apply(x, weight.contiguous(), bias.contiguous(), shift, residual, how)


class _Shape:
    """How a map is cut into tiles of pixels and channels, and into parts whose statistics are measured apart."""

    def __init__(self, x: Tensor) -> None:
        self.images, self.channels, self.pixels = len(x), x.shape[1], x.shape[2] * x.shape[3]
        pixel_by_pixel = x.stride(1) == 1 and self.channels > 1
        # Of an image, a pixel and a channel; what torch says of a side of one pixel may be anything.
        each = (self.channels, 1) if pixel_by_pixel else (1, self.pixels)
        self.strides = self.channels * self.pixels, *each
        self.block_channels = CHANNELS_PER_TILE if pixel_by_pixel else 1
        self.block_pixels = (NUMBERS_PER_TILE if pixel_by_pixel else NUMBERS_PER_TILE // 4) // self.block_channels
        self.groups = triton.cdiv(self.channels, self.block_channels)
        wanted = triton.cdiv(BLOCKS, self.images * self.groups)
        tiles = triton.cdiv(self.pixels, self.block_pixels)
        self.part = triton.cdiv(tiles, max(1, min(wanted, tiles, PARTS))) * self.block_pixels
        self.parts = triton.cdiv(self.pixels, self.part)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Programs of a launch: by image, group of channels and part."""
        return self.images, self.groups, self.parts

    def arguments(self) -> tuple[int, ...]:
        """What every kernel is told of the shape."""
        return self.pixels, self.channels, self.part, *self.strides

    def constants(self) -> dict[str, int]:
        """What is compiled into a kernel."""
        return {
            "PARTS": PARTS,
            "BLOCK_PIXELS": self.block_pixels,
            "BLOCK_CHANNELS": self.block_channels,
        }


class _Standardised(torch.autograd.Function):
    """What is rectified is known again from the arguments: nothing else is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        shift: Tensor | None,
        residual: Tensor | None,
        how: tuple[float, bool, bool],
    ) -> Tensor:
        eps, before, after = how
        shape, out = _Shape(x), torch.empty_like(x)
        parts = weight.new_empty(shape.images, shape.parts, 2, shape.channels)
        found = weight.new_empty(shape.images, 2, shape.channels)
        ctx.flags = {
            "SHIFTED": shift is not None,
            "BEFORE": before,
            "RESIDUAL": residual is not None,
            "AFTER": after,
        }
        added, shift = x if residual is None else residual, bias if shift is None else shift
        with torch.cuda.device_of(x):
            first = {name: ctx.flags[name] for name in ("SHIFTED", "BEFORE")}
            _measure[shape.grid](x, shift, parts, *shape.arguments(), **first, **shape.constants())
            tensors = x, shift, parts, weight, bias, added, found, out
            _apply[shape.grid](*tensors, *shape.arguments(), eps, **ctx.flags, **shape.constants())
        ctx.save_for_backward(x, shift, weight, bias, added if after else x, found)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, weight, bias, added, found = ctx.saved_tensors
        of_output = gradients[0]
        if of_output.stride() != x.stride():
            of_output = torch.empty_like(x).copy_(of_output)
        masked = ctx.flags["RESIDUAL"] and ctx.flags["AFTER"]
        of_residual = torch.empty_like(x) if masked else of_output
        shape, of_input = _Shape(x), torch.empty_like(x)
        parts = weight.new_empty(shape.images, shape.parts, 2, shape.channels)
        of_weight, of_bias = torch.empty_like(weight), torch.empty_like(bias)
        tensors = x, shift, of_output, weight, bias, added, found, parts
        how = ctx.flags | shape.constants()
        with torch.cuda.device_of(x):
            _measure_gradient[shape.grid](*tensors, *shape.arguments(), **how)
            _apply_gradient[shape.grid](*tensors, of_input, of_residual, of_weight, of_bias, *shape.arguments(), **how)
        return of_input, of_weight, of_bias, None, of_residual if ctx.flags["RESIDUAL"] else None, None


@triton.jit
def _measure(
    x, shift, parts, pixels, channels, part, per_image, per_pixel, per_channel,
    SHIFTED: tl.constexpr, BEFORE: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of each part of each channel: tile after tile, by Chan's formula."""
    image, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    begin = tl.program_id(2) * part
    end = tl.minimum(begin + part, pixels)
    added = tl.zeros([BLOCK_CHANNELS], tl.float32)
    if SHIFTED:
        added += tl.load(shift + channel, mask=channel < channels, other=0).to(tl.float32)
    mean = tl.zeros([BLOCK_CHANNELS], tl.float32)
    squares = tl.zeros([BLOCK_CHANNELS], tl.float32)
    seen = 0.0
    for first in range(begin, end, BLOCK_PIXELS):
        pixel = first + tl.arange(0, BLOCK_PIXELS)
        inside = (pixel < end)[:, None] & (channel < channels)[None, :]
        at = image * per_image + pixel[:, None] * per_pixel + channel[None, :] * per_channel
        tile = tl.load(x + at, mask=inside, other=0).to(tl.float32)
        if SHIFTED:
            tile += added[None, :]
        if BEFORE:
            tile = tl.maximum(tile, 0)
        count = tl.minimum(end - first, BLOCK_PIXELS).to(tl.float32)
        of_tile = tl.sum(tl.where(inside, tile, 0), 0) / count
        away = tl.where(inside, tile - of_tile[None, :], 0)
        step = of_tile - mean
        together = seen + count
        mean += step * (count / together)
        squares += tl.sum(away * away, 0) + step * step * (seen * count / together)
        seen = together
    of_part = parts + ((image * tl.num_programs(2) + tl.program_id(2)) * 2) * channels + channel
    tl.store(of_part, mean, mask=channel < channels)
    tl.store(of_part + channels, squares, mask=channel < channels)


@triton.jit
def _apply(
    x, shift, parts, weight, bias, residual, found, out, pixels, channels, part, per_image, per_pixel, per_channel, eps,
    SHIFTED: tl.constexpr, BEFORE: tl.constexpr, RESIDUAL: tl.constexpr, AFTER: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Statistics of all parts together, kept in ``found``, and what they make of one part."""
    image, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    known = channel < channels
    each = tl.arange(0, PARTS)
    real = (each < tl.num_programs(2))[:, None] & known[None, :]
    first_of = parts + ((image * tl.num_programs(2) + each) * 2)[:, None] * channels + channel[None, :]
    means, squares = tl.load(first_of, mask=real, other=0), tl.load(first_of + channels, mask=real, other=0)
    counts = tl.where(real, tl.minimum(pixels - each * part, part)[:, None].to(tl.float32), 0)
    mean = tl.sum(means * counts, 0) / pixels
    away = means - mean[None, :]
    variance = tl.sum(squares + away * away * counts, 0) / pixels
    scale = 1 / tl.sqrt(variance + eps)
    row = image * channels + channel
    if tl.program_id(2) == 0:
        tl.store(found + row + image * channels, mean, mask=known)
        tl.store(found + row + (image + 1) * channels, scale, mask=known)
    factor = scale * tl.load(weight + row, mask=known, other=0)
    offset = tl.load(bias + row, mask=known, other=0)
    added = tl.zeros([BLOCK_CHANNELS], tl.float32)
    if SHIFTED:
        added += tl.load(shift + channel, mask=channel < channels, other=0).to(tl.float32)
    begin = tl.program_id(2) * part
    end = tl.minimum(begin + part, pixels)
    for first in range(begin, end, BLOCK_PIXELS):
        pixel = first + tl.arange(0, BLOCK_PIXELS)
        inside = (pixel < end)[:, None] & known[None, :]
        at = image * per_image + pixel[:, None] * per_pixel + channel[None, :] * per_channel
        tile = tl.load(x + at, mask=inside, other=0).to(tl.float32)
        if SHIFTED:
            tile += added[None, :]
        if BEFORE:
            tile = tl.maximum(tile, 0)
        made = (tile - mean[None, :]) * factor[None, :] + offset[None, :]
        if RESIDUAL:
            made += tl.load(residual + at, mask=inside, other=0).to(tl.float32)
        if AFTER:
            made = tl.maximum(made, 0)
        tl.store(out + at, made.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _normal_and_slope(
    x, gradient, residual, at, inside, added, mean, scale, factor, offset,
    SHIFTED: tl.constexpr, BEFORE: tl.constexpr, RESIDUAL: tl.constexpr, AFTER: tl.constexpr,
):  # fmt: skip
    """Of a tile its numbers, as shifted; their normalised values; and the gradient that gets past what came after."""
    tile = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    if SHIFTED:
        tile += added[None, :]
    normal = ((tl.maximum(tile, 0) if BEFORE else tile) - mean[None, :]) * scale[None, :]
    slope = tl.load(gradient + at, mask=inside, other=0).to(tl.float32)
    if AFTER:
        made = normal * factor[None, :] + offset[None, :]
        if RESIDUAL:
            made += tl.load(residual + at, mask=inside, other=0).to(tl.float32)
        slope = tl.where(made > 0, slope, 0)
    return tile, normal, slope


@triton.jit
def _measure_gradient(
    x, shift, gradient, weight, bias, residual, found, parts, pixels, channels, part, per_image, per_pixel, per_channel,
    SHIFTED: tl.constexpr, BEFORE: tl.constexpr, RESIDUAL: tl.constexpr, AFTER: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums over each part of the gradient, and of the gradient times the normalised values."""
    image, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    known = channel < channels
    row = image * channels + channel
    mean = tl.load(found + (image * 2) * channels + channel, mask=known, other=0)
    scale = tl.load(found + (image * 2 + 1) * channels + channel, mask=known, other=0)
    factor, offset = tl.load(weight + row, mask=known, other=0), tl.load(bias + row, mask=known, other=0)
    added = tl.zeros([BLOCK_CHANNELS], tl.float32)
    if SHIFTED:
        added += tl.load(shift + channel, mask=channel < channels, other=0).to(tl.float32)
    begin = tl.program_id(2) * part
    end = tl.minimum(begin + part, pixels)
    alone = tl.zeros([BLOCK_CHANNELS], tl.float32)
    times = tl.zeros([BLOCK_CHANNELS], tl.float32)
    for first in range(begin, end, BLOCK_PIXELS):
        pixel = first + tl.arange(0, BLOCK_PIXELS)
        inside = (pixel < end)[:, None] & known[None, :]
        at = image * per_image + pixel[:, None] * per_pixel + channel[None, :] * per_channel
        _, normal, slope = _normal_and_slope(
            x, gradient, residual, at, inside, added, mean, scale, factor, offset, SHIFTED, BEFORE, RESIDUAL, AFTER
        )
        alone += tl.sum(slope, 0)
        times += tl.sum(slope * normal, 0)
    of_part = parts + ((image * tl.num_programs(2) + tl.program_id(2)) * 2) * channels + channel
    tl.store(of_part, alone, mask=known)
    tl.store(of_part + channels, times, mask=known)


@triton.jit
def _apply_gradient(
    x, shift, gradient, weight, bias, residual, found, parts, of_input, of_residual, of_weight, of_bias,
    pixels, channels, part, per_image, per_pixel, per_channel,
    SHIFTED: tl.constexpr, BEFORE: tl.constexpr, RESIDUAL: tl.constexpr, AFTER: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradients of the scale, of the shift and of one part of the input."""
    image, channel = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    known = channel < channels
    row = image * channels + channel
    each = tl.arange(0, PARTS)
    real = (each < tl.num_programs(2))[:, None] & known[None, :]
    first_of = parts + ((image * tl.num_programs(2) + each) * 2)[:, None] * channels + channel[None, :]
    alone = tl.sum(tl.load(first_of, mask=real, other=0), 0)
    times = tl.sum(tl.load(first_of + channels, mask=real, other=0), 0)
    if tl.program_id(2) == 0:
        tl.store(of_bias + row, alone, mask=known)
        tl.store(of_weight + row, times, mask=known)
    mean = tl.load(found + (image * 2) * channels + channel, mask=known, other=0)
    scale = tl.load(found + (image * 2 + 1) * channels + channel, mask=known, other=0)
    factor, offset = tl.load(weight + row, mask=known, other=0), tl.load(bias + row, mask=known, other=0)
    added = tl.zeros([BLOCK_CHANNELS], tl.float32)
    if SHIFTED:
        added += tl.load(shift + channel, mask=channel < channels, other=0).to(tl.float32)
    begin = tl.program_id(2) * part
    end = tl.minimum(begin + part, pixels)
    for first in range(begin, end, BLOCK_PIXELS):
        pixel = first + tl.arange(0, BLOCK_PIXELS)
        inside = (pixel < end)[:, None] & known[None, :]
        at = image * per_image + pixel[:, None] * per_pixel + channel[None, :] * per_channel
        tile, normal, slope = _normal_and_slope(
            x, gradient, residual, at, inside, added, mean, scale, factor, offset, SHIFTED, BEFORE, RESIDUAL, AFTER
        )
        if AFTER and RESIDUAL:
            tl.store(of_residual + at, slope.to(of_residual.dtype.element_ty), mask=inside)
        made = (slope - (alone[None, :] + normal * times[None, :]) / pixels) * (scale * factor)[None, :]
        if BEFORE:
            made = tl.where(tile > 0, made, 0)
        tl.store(of_input + at, made.to(of_input.dtype.element_ty), mask=inside)
