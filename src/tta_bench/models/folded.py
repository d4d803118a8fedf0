"""A convolution that normalises its own output, in the place of one and the normalisation layer behind it.

It exists where neither changes: by the source model's statistics and affine parameters, without a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tta_bench.models.frozen import FrozenConv2d, LaidOut
from tta_bench.models.normalisation_layer import NormalisationLayer, is_observed, joins
from tta_bench.runtime.numerics import placement

NOTHING_LEFT = nn.Identity()


def is_one_row(rows: Tensor) -> bool:
    """Whether all rows of a matrix are one and the same in memory."""
    return len(rows) == 1 or rows.stride(0) == 0


def convolved(layer: nn.Module, convolution: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
    """The map that ``convolution`` makes of ``x``, and what is left to be done to it.

    Returns:
        ``layer`` and what it is given; where the two are folded, nothing and what it gives.
    """
    if not (
        joins(layer)
        and folds(layer, x)
        and type(convolution) is FrozenConv2d
        and "forward" not in vars(convolution)
        and not is_observed(convolution)
        and (plain := convolution.laid_out(x)) is not None
    ):
        return layer, convolution(x)
    return NOTHING_LEFT, _of(convolution, plain, layer)(x.to(plain.weight.dtype))


def folds(layer: NormalisationLayer, x: Tensor) -> bool:
    """Whether a layer may be folded into the convolution whose input is ``x`` ``[N, C, H, W]``."""
    return layer.is_as_in_source and not torch.is_grad_enabled() and placement(x.device, x.dtype).folded


def _of(convolution: FrozenConv2d, plain: LaidOut, layer: NormalisationLayer) -> LaidOut:
    """The convolution of both, made once for the present weights; what the layer holds of the source never changes."""
    present = plain, layer
    if convolution.folded is None or convolution.folded[0] != present:
        source = layer.source_mean, layer.source_variance, layer.source_weight, layer.source_bias
        weight, bias = folded(plain.weight, plain.bias, *source, layer.eps)
        convolution.folded = present, LaidOut(weight, bias, plain.stride, plain.padding, plain.dilation)
    return convolution.folded[1]


def folded(
    weight: Tensor, bias: Tensor | None, mean: Tensor, variance: Tensor, scale: Tensor, shift: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that gives ``scale * (y - mean) / sqrt(variance + eps) + shift`` for ``y``.

    Args:
        weight: of the convolution that gives ``y``: ``[outputs, inputs, height, width]``.
        bias: ``[outputs]`` or None.
        mean: ``[outputs]``, as the next three, in the precision that is computed in.
        variance: not negative.
        scale: of the normalisation, gamma.
        shift: of the normalisation, beta.
        eps: added to the variance.

    Returns:
        ``[outputs, inputs, height, width]`` and ``[outputs]``, both in the precision of ``weight``.
    """
    factor = scale * (variance + eps).rsqrt()
    offset = (-mean if bias is None else bias.to(mean.dtype) - mean) * factor + shift
    return (weight.to(mean.dtype) * factor[:, None, None, None]).to(weight.dtype), offset.to(weight.dtype)
