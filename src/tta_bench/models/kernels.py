"""A normalisation by each image's own statistics on a GPU, in whatever order its numbers lie in memory.

One launch forwards and one backwards where a channel's pixels fit into the registers of a block, which reads them once.
Elsewhere two of each: the first measures parts of an image, the second adds them up and applies them. All is in 32 bits
and always in the same order, so that results do not change from run to run. Torch's own kernels take one block of a GPU
for each channel of an image, and copy maps that lie pixel by pixel.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from tta_bench.models.triton_kernels import (
    apply,
    apply_gradient,
    measure,
    measure_gradient,
    normalise,
    normalise_gradient,
)
from tta_bench.models.upsampled import Upsampled
from tta_bench.runtime.files import warn_once

log = logging.getLogger(__name__)

NUMBERS_PER_TILE = 4096
CHANNELS_PER_TILE = 64
BLOCKS = 1024
"""That a launch should have for a GPU to be busy."""

WHOLE, CHANNELS_OF_WHOLE = 16384, 16
"""Numbers of a tile that may have all pixels of its channels, half as many of an upsampled map, whose places take
registers too; and these channels where they lie side by side."""

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
    x: Tensor | Upsampled,
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
        x: ``[N, C, H, W]`` on a GPU, of 32 or 16 bits, dense, plane by plane or pixel by pixel; an upsampled map is
            read as it is.
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
    given = (x.quarters, x.beside) if isinstance(x, Upsampled) else (x, None)
    how = eps, isinstance(x, Upsampled), rectified_before, rectified_after
    return _Standardised.apply(*given, weight.contiguous(), bias.contiguous(), shift, residual, how)


class _Shape:
    """How a map is cut into tiles of pixels and channels, and into parts whose statistics are measured apart.

    Args:
        x: the map, or the quarters of an upsampled one.
        beside: its further channels.
        doubled: whether it is an upsampled map.
    """

    def __init__(self, x: Tensor, beside: Tensor | None, doubled: bool) -> None:
        made = Upsampled(x, beside) if doubled else x
        self.size = made.shape
        self.images, self.channels, self.pixels = len(made), made.shape[1], made.shape[2] * made.shape[3]
        lies = x if beside is None else beside
        pixel_by_pixel = lies.stride(1) == 1 and lies.shape[1] > 1
        self.order = torch.channels_last if pixel_by_pixel else torch.contiguous_format
        # Of a pixel and a channel; what torch says of a side of one pixel may be anything.
        each = (self.channels, 1) if pixel_by_pixel else (1, self.pixels)
        self.strides = self.channels * self.pixels, *each
        self.apart = 0, 0, 0, 0
        if isinstance(made, Upsampled):
            # Its own channels, its width; and of a pixel and a channel among the quarters.
            self.apart = made.own, made.shape[3], *((4 * made.own, 1) if pixel_by_pixel else (1, self.pixels // 4))
        channels = triton.next_power_of_2(self.channels) if pixel_by_pixel else 1
        self.block_channels = min(CHANNELS_OF_WHOLE, channels)
        # Few sizes, because every one is compiled.
        self.block_pixels = max(256 if pixel_by_pixel else 1024, triton.next_power_of_2(self.pixels))
        self.is_whole = self.block_channels * self.block_pixels <= (WHOLE // 2 if doubled else WHOLE)
        if not self.is_whole:
            self.block_channels = min(CHANNELS_PER_TILE, channels)
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

    def empty(self, like: Tensor) -> Tensor:
        """A map in the same order."""
        return torch.empty(self.size, dtype=like.dtype, device=like.device, memory_format=self.order)

    def in_order(self, tensor: Tensor) -> Tensor:
        """The same numbers in this order."""
        return tensor.contiguous(memory_format=self.order)

    def arguments(self) -> tuple[int, ...]:
        """What every kernel is told of the shape; before it the size of a part, where there are such."""
        return self.pixels, self.channels, *self.strides, *self.apart

    def constants(self) -> dict[str, int]:
        """What is compiled into a kernel."""
        tile = {"BLOCK_PIXELS": self.block_pixels, "BLOCK_CHANNELS": self.block_channels}
        if not self.is_whole:
            return {"PARTS": PARTS, **tile}
        # 32 numbers of the map in the registers of a thread.
        return {**tile, "num_warps": min(16, max(4, self.block_channels * self.block_pixels // 1024))}


class _Standardised(torch.autograd.Function):
    """What is rectified is known again from the arguments: nothing else is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        beside: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        shift: Tensor | None,
        residual: Tensor | None,
        how: tuple[float, bool, bool, bool],
    ) -> Tensor:
        eps, doubled, before, after = how
        shape = _Shape(x, beside, doubled)
        ctx.flags = {
            "DOUBLED": doubled,
            "SHIFTED": shift is not None,
            "BEFORE": before,
            "RESIDUAL": residual is not None,
            "AFTER": after,
        }
        # What is not there stands for nothing: the kernels do not read it.
        x, out = shape.in_order(x), shape.empty(x)
        beside = x if beside is None else shape.in_order(beside)
        added, shift = x if residual is None else shape.in_order(residual), bias if shift is None else shift
        found = weight.new_empty(shape.images, 2, shape.channels)
        of_map, made, flags = (x, beside, shift), (weight, bias, added, found, out), ctx.flags | shape.constants()
        with torch.cuda.device_of(x):
            if shape.is_whole:
                normalise[shape.grid](*of_map, *made, *shape.arguments(), eps, **flags)
            else:
                parts = weight.new_empty(shape.images, shape.parts, 2, shape.channels)
                first = {name: value for name, value in flags.items() if name not in ("RESIDUAL", "AFTER")}
                measure[shape.grid](*of_map, parts, shape.part, *shape.arguments(), **first)
                apply[shape.grid](*of_map, parts, *made, shape.part, *shape.arguments(), eps, **flags)
        ctx.save_for_backward(x, beside, shift, weight, bias, added if after else x, found)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, beside, shift, weight, bias, added, found = ctx.saved_tensors
        alone = beside.data_ptr() == x.data_ptr()
        shape = _Shape(x, None if alone else beside, ctx.flags["DOUBLED"])
        of_output = shape.in_order(gradients[0])
        masked = ctx.flags["RESIDUAL"] and ctx.flags["AFTER"]
        of_residual = shape.empty(x) if masked else of_output
        of_input = torch.empty_like(x)
        of_beside = of_input if alone else torch.empty_like(beside)
        of_weight, of_bias = torch.empty_like(weight), torch.empty_like(bias)
        tensors = x, beside, shift, of_output, weight, bias, added, found
        made = of_input, of_beside, of_residual, of_weight, of_bias
        how = ctx.flags | shape.constants()
        with torch.cuda.device_of(x):
            if shape.is_whole:
                normalise_gradient[shape.grid](*tensors, *made, *shape.arguments(), **how)
            else:
                parts = weight.new_empty(shape.images, shape.parts, 2, shape.channels)
                measure_gradient[shape.grid](*tensors, parts, shape.part, *shape.arguments(), **how)
                apply_gradient[shape.grid](*tensors, parts, *made, shape.part, *shape.arguments(), **how)
        of_residual_or_none = of_residual if ctx.flags["RESIDUAL"] else None
        return of_input, None if alone else of_beside, of_weight, of_bias, None, of_residual_or_none, None
