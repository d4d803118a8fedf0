"""The layer in the place of a network's BatchNorm, for every method: which statistics it uses is a policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_bench.models.by_pixel import in_vmap, regular
from tta_bench.models.normalisation import OneKernel, SourceStatistics, Statistics
from tta_bench.models.upsampled import Upsampled
from tta_bench.ops.geometry import stacked, unstacked


class NormalisationLayer(nn.Module):
    """Replaces a ``BatchNorm2d`` and keeps its source statistics and affine parameters untouched.

    :class:`~tta_bench.models.adaptable.AdaptableNetwork` sets ``statistics``, ``weight_rows`` and ``bias_rows``
    for the duration of one forward pass, and into how many ``tiles`` an image is cut, whose statistics are measured
    together. Where a layer sees a single value per channel, behind a global pooling for
    instance, there are no statistics to measure: whatever the policy, those of the source model normalise.

    Args:
        source: the trained layer; must have running statistics.
        channel_offset: position of this layer's first channel among the channels of all layers.
        after: what the trained layer does besides normalising (dropout, an activation), in order.
    """

    source_mean: Tensor
    source_variance: Tensor
    source_weight: Tensor
    source_bias: Tensor

    def __init__(self, source: nn.Module, channel_offset: int, after: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        mean, variance, weight, bias = (getattr(source, name, None) for name in _TENSORS)
        if mean is None or variance is None:
            raise ValueError("a layer without running statistics cannot be adapted by a policy of statistics")
        self.kind = type(source).__name__
        self.affine = weight is not None
        self.register_buffer("source_mean", mean.detach().clone())
        self.register_buffer("source_variance", variance.detach().clone())
        self.register_buffer("source_weight", torch.ones_like(mean) if weight is None else weight.detach().clone())
        self.register_buffer("source_bias", torch.zeros_like(mean) if bias is None else bias.detach().clone())
        self.eps: float = source.eps  # type: ignore[assignment]
        self.channels = len(mean)
        self.channel_slice = slice(channel_offset, channel_offset + self.channels)
        self.after = nn.Sequential(*after)
        self.statistics: Statistics = SourceStatistics()
        self.tiles = 1
        self.weight_rows: Tensor | None = None
        self.bias_rows: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[S * V, C, H, W]`` by the policy and affine rows in force."""
        if (one := self.in_one_kernel(x)) is not None:
            return self.after(one(None, None, False, False))
        weight, bias = self._rows()
        x = regular(stacked(x, self.tiles))
        statistics = self._statistics_of(x, weight)
        if statistics.takes_16_bits:
            made = statistics.normalise(x, weight, bias, self)
        else:
            made = statistics.normalise(x.to(weight.dtype), weight, bias, self).to(x.dtype)
        if made.requires_grad and not in_vmap(made):
            made.register_hook(regular)
        return self.after(unstacked(made, self.tiles))

    def in_one_kernel(self, x: Tensor | Upsampled) -> OneKernel | None:
        """What normalises ``x`` with what comes before and after it in the network, where there is such a kernel."""
        if self.tiles > 1:
            return None
        weight, bias = self._rows()
        return self._statistics_of(x, weight).in_one_kernel(x, weight, bias, self.eps)

    @property
    def is_as_in_source(self) -> bool:
        """Whether statistics and affine parameters in force are those of the source model, for all images."""
        return self.weight_rows is None and type(self.statistics) is SourceStatistics

    def _rows(self) -> tuple[Tensor, Tensor]:
        """Scale and shift in force, ``[S, C]``."""
        weight = self.source_weight[None] if self.weight_rows is None else self.weight_rows
        return weight, self.source_bias[None] if self.bias_rows is None else self.bias_rows

    def _statistics_of(self, x: Tensor | Upsampled, weight: Tensor) -> Statistics:
        """The policy in force, or that of the source where a channel has a single value."""
        pooled = len(x) // len(weight) if self.statistics.pools_views else 1
        return self.statistics if pooled * x.shape[2:].numel() > 1 else SourceStatistics()


def normalised(
    layer: nn.Module,
    x: Tensor | Upsampled,
    *,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    rectified_before: bool = False,
    rectified_after: bool = False,
) -> Tensor:
    """``relu(layer(relu(x + shift)) + residual)``, in the kernels of a GPU where there are such.

    One after the other unless the layer :func:`joins`.

    Args:
        layer: a network's BatchNorm, or what is put in its place.
        x: ``[N, C, H, W]``; may be overwritten. Laid out if the layer's policy has no kernel that reads it as it is.
        shift: ``[C]``, such as the bias of the convolution before; None for none.
        residual: of the same shape, or None.
        rectified_before: whether the first ``relu`` is computed.
        rectified_after: whether the last one is.
    """
    if joins(layer) and (one := layer.in_one_kernel(x)) is not None:
        return one(shift, residual, rectified_before, rectified_after)
    if isinstance(x, Upsampled):
        x = x.laid_out()
    if shift is not None:
        x = x + shift[:, None, None]
    made = layer(F.relu_(x) if rectified_before else x)
    if residual is not None:
        made += residual
    return F.relu_(made) if rectified_after else made


def joins(layer: nn.Module) -> TypeGuard[NormalisationLayer]:
    """Whether a layer computes what is before and after it, too: nobody looks at it alone, and it only normalises."""
    return isinstance(layer, NormalisationLayer) and not len(layer.after) and not is_observed(layer)


def is_observed(module: nn.Module) -> bool:
    """Whether hooks see what a module is given, what it gives, or the gradient of either."""
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(getattr(module, each) for each in hooks)


_TENSORS = ("running_mean", "running_var", "weight", "bias")
