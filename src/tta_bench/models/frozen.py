"""Convolutions whose weights do not change: laid out once as the kernels of their device want them, not at every pass.

Only the input's gradient exists. With a stride of 1 it is itself a convolution with frozen weights, and a transposed
convolution that writes every pixel once is one with a kernel of 1: both are what the libraries of a CPU and of a GPU
compute fastest (cuDNN's deterministic kernels for gradients and transposed convolutions are up to thirty times slower).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_bench.models.by_pixel import by_pixel
from tta_bench.models.upsampled import Upsampled
from tta_bench.runtime.numerics import placement

Pair = tuple[int, int]


class LaidOut:
    """A convolution, and the gradient of its input.

    Args:
        weight: ``[outputs, inputs, height, width]`` of 32 or 16 bits, which stay as they are.
        bias: ``[outputs]`` or None.
        stride: of the convolution, as the next two.
        padding: with zeros.
        dilation: of the kernel.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        dilation: Pair = (1, 1),
    ) -> None:
        self.weight, self.bias = weight.detach(), bias if bias is None else bias.detach()
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self._packed: Tensor | None = None
        self._backwards: LaidOut | None = None

    def __call__(self, x: Tensor, biased: bool = True) -> Tensor:
        """``[N, inputs, H, W]`` to ``[N, outputs, H', W']``; on a CPU with the channels of a pixel side by side."""
        if torch.is_grad_enabled() and x.requires_grad:
            return _Convolution.apply(x, self, biased)
        return self.convolve(x, biased)

    def convolve(self, x: Tensor, biased: bool) -> Tensor:
        """As a call, without a graph."""
        bias = self.bias if biased else None
        if not placement(x.device, x.dtype).packed:
            return F.conv2d(x, self.weight, bias, self.stride, self.padding, self.dilation)
        x = x.contiguous(memory_format=torch.channels_last)
        how = self.padding, self.stride, self.dilation, 1
        if self._packed is None:
            lay_out: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            self._packed = lay_out(self.weight.contiguous().to_mkldnn(), *how, list(x.shape))
        # Unlike torch.mkldnn_convolution it keeps channels last when the weights are laid out.
        return torch.ops.mkldnn._convolution_pointwise(x, self._packed, bias, *how, "none", [], "")

    def gradient(self, of_output: Tensor, shape: torch.Size) -> Tensor:
        """Of the input, which has this shape."""
        reach = [
            d * (size - 1) - p for d, size, p in zip(self.dilation, self.weight.shape[2:], self.padding, strict=True)
        ]
        where = placement(of_output.device, of_output.dtype)
        packed = where.packed
        # On a GPU maps lie pixel by pixel for its matrix units, which are as fast in this direction.
        if self.stride == (1, 1) and min(reach) >= 0 and (packed or not by_pixel(of_output)):
            if self._backwards is None:
                # A copy: a kernel of 1 counts as contiguous in either order, and its strides decide the gradient's.
                mirrored = self.weight.flip(2, 3).transpose(0, 1).clone(memory_format=torch.contiguous_format)
                self._backwards = LaidOut(mirrored, None, padding=(reach[0], reach[1]), dilation=self.dilation)
            return self._backwards(of_output)
        if where.image_by_image and len(of_output) > 1:
            return torch.cat([self.gradient(each, torch.Size((1, *shape[1:]))) for each in of_output.split(1)])
        if packed:
            of_output = of_output.contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if by_pixel(of_output) else torch.contiguous_format
        like = torch.empty(shape, dtype=of_output.dtype, device=of_output.device, memory_format=layout)
        how = (None, self.stride, self.padding, self.dilation, False, (0, 0), 1, (True, False, False))
        return torch.ops.aten.convolution_backward(of_output, like, self.weight, *how)[0]


class _Convolution(torch.autograd.Function):
    """A convolution that keeps nothing for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, convolution: LaidOut, biased: bool) -> Tensor:
        ctx.convolution, ctx.shape = convolution, x.shape
        return convolution.convolve(x, biased)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.convolution.gradient(gradients[0], ctx.shape), None, None


class _Frozen(nn.Module):
    """What the frozen layers share."""

    _laid_out: tuple[tuple[Any, ...], LaidOut] | None = None
    folded: tuple[tuple[Any, ...], LaidOut] | None = None
    """With the normalisation behind it: of which numbers, and the convolution (:mod:`~tta_bench.models.folded`)."""

    def __getstate__(self) -> dict[str, Any]:
        """Copies lay out their own."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_laid_out", "folded")}

    def laid_out(self, x: Tensor) -> LaidOut | None:
        """The convolution of the present weights; None where they are stand-ins, or not of a kind that is laid out."""
        weight: Any = self.weight
        bias: Any = self.bias
        kinds = (torch.float32, torch.bfloat16)
        if (
            x.dim() != 4
            or not x.numel()
            or x.dtype not in kinds
            or weight.dtype not in kinds
            or weight.requires_grad
            or not isinstance(weight, nn.Parameter)
            or weight.is_inference()
            or not placement(x.device, weight.dtype).laid_out
        ):
            return None
        by_kernels = placement(x.device, weight.dtype).one_kernel
        version = weight.dtype, by_kernels, *_contents(weight), *(() if bias is None else _contents(bias))
        if self._laid_out is None or self._laid_out[0] != version:
            self._laid_out = version, self.convolution(by_kernels)
        return self._laid_out[1]

    @abstractmethod
    def convolution(self, by_kernels: bool) -> LaidOut:
        """That of the weights, as kernels of our own take it or as those of torch do."""


def _contents(tensor: Tensor) -> tuple[int, int]:
    """What tells that other numbers are in a tensor, or another one in its place."""
    return tensor.data_ptr(), tensor._version


class FrozenConv2d(_Frozen, nn.Conv2d):
    """A convolution with frozen weights; as its base where other tensors stand in for them."""

    def convolution(self, by_kernels: bool) -> LaidOut:
        """See :class:`_Frozen`."""
        return LaidOut(self.weight, self.bias, self.stride, self.padding, self.dilation)  # type: ignore[arg-type]

    def forward(self, input: Tensor) -> Tensor:
        """See :class:`torch.nn.Conv2d`."""
        convolution = self.laid_out(input)
        return super().forward(input) if convolution is None else convolution(input.to(self.weight.dtype))

    def apart(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The output without the bias, and the bias, which kernels of our own add; None if it is in the output."""
        convolution = self.laid_out(x)
        return (self(x), None) if convolution is None else (convolution(x.to(self.weight.dtype), False), self.bias)


class FrozenConvTranspose2d(_Frozen, nn.ConvTranspose2d):
    """A transposed convolution of kernel 2 and stride 2 with frozen weights: a 1x1 convolution and a rearrangement."""

    def convolution(self, by_kernels: bool) -> LaidOut:
        """See :class:`_Frozen`: kernels of our own take the quarters of a pixel apart, torch's pixel shuffle mixed."""
        weight, bias = as_1x1(self)
        if by_kernels:
            weight = self.weight.permute(2, 3, 1, 0).reshape(weight.shape)
            bias = None if self.bias is None else self.bias.repeat(4)
        return LaidOut(weight.contiguous(), bias)  # else copied at every pass

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """See :class:`torch.nn.ConvTranspose2d`."""
        convolution = self.laid_out(input) if output_size is None else None
        if convolution is None:
            return double(self, input) if output_size is None else super().forward(input, output_size)
        made = convolution(input.to(self.weight.dtype))
        by_kernels = placement(input.device, made.dtype).one_kernel
        return Upsampled(made).laid_out() if by_kernels else F.pixel_shuffle(made, 2)


def upsampled(
    layer: FrozenConvTranspose2d, x: Tensor, *beside: tuple[FrozenConv2d, Tensor]
) -> tuple[Tensor | Upsampled, Tensor | None]:
    """What a transposed convolution makes of ``x``, with the output of another layer as further channels.

    Where kernels of our own read it, it is not laid out, and without biases.

    Returns:
        The map, and the biases ``[channels]`` that are not in it yet; None for none.
    """
    convolution = layer.laid_out(x)
    if convolution is None or not placement(x.device, x.dtype).one_kernel:
        made = [layer(x), *(other(y) for other, y in beside)]
        return torch.cat(made, dim=1) if beside else made[0], None
    quarters = convolution(x.to(layer.weight.dtype), False)
    others = [other.apart(y) for other, y in beside]
    outputs = (layer.out_channels, layer.bias), *((len(made[0]), bias) for made, bias in others)
    biases = [quarters.new_zeros(count) if bias is None else bias for count, bias in outputs]
    return Upsampled(quarters, *(made for made, _ in others)), torch.cat(biases)


def double(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Apply a transposed convolution of kernel 2 and stride 2: ``[N, C, H, W]`` to ``[N, outputs, 2H, 2W]``.

    It writes every output pixel once, so it is a 1x1 convolution to four times the channels and a rearrangement; on a
    CPU the kernels for that are much faster, forwards and backwards.
    """
    if not placement(x.device, x.dtype).composed:
        return nn.ConvTranspose2d.forward(layer, x)
    return F.pixel_shuffle(F.conv2d(x, *as_1x1(layer)), 2)


def as_1x1(layer: nn.ConvTranspose2d) -> tuple[Tensor, Tensor | None]:
    """Weight ``[4 * outputs, inputs, 1, 1]`` and bias of what is a transposed convolution before a pixel shuffle."""
    inputs, outputs = layer.weight.shape[:2]
    weight = layer.weight.permute(1, 2, 3, 0).reshape(4 * outputs, inputs, 1, 1)
    return weight, None if layer.bias is None else layer.bias.repeat_interleave(4)


def freeze(model: nn.Module) -> None:
    """Make the plain convolutions of a network frozen ones, in place; parameters and names stay."""
    for layer in model.modules():
        # The class alone changes: whoever refers to the layer, by whatever name, has the frozen one.
        zeros = isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        if type(layer) is nn.Conv2d and layer.groups == 1 and zeros:
            layer.__class__ = FrozenConv2d
        elif type(layer) is nn.ConvTranspose2d and doubles(layer):
            layer.__class__ = FrozenConvTranspose2d


def doubles(layer: nn.ConvTranspose2d) -> bool:
    """Whether a transposed convolution writes every output pixel once."""
    how = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.groups)
    return how == ((2, 2), (2, 2), (0, 0), (0, 0), (1, 1), 1)
