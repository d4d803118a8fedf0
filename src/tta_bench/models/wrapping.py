"""Putting layers with rows of affine parameters in the place of a network's normalisation layers.

Two kinds of layer are put in place. Where a layer keeps running statistics, :class:`NormalisationLayer` computes the
normalisation itself, because the statistics are a policy; only layers whose forward pass is known are replaced by it,
and what they do afterwards (dropout, an activation) is kept. Where a layer's statistics are always those of the image,
:class:`OwnStatisticsLayer` calls the layer as it is and fills in the affine parameters, so nothing can be lost.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from tta_bench.models.normalisation import Statistics
from tta_bench.models.normalisation_layer import NormalisationLayer

AFFINE = ("weight", "bias")


class OwnStatisticsLayer(nn.Module):
    """A layer that normalises by the image's own statistics, whatever the policy: LayerNorm, GroupNorm and the like.

    The layer itself runs, once per stream, with the stream's scale and shift in the place of its own; one that lacks
    either has no scalars of it.

    Args:
        source: the trained layer; it is taken over, and its scale and shift are no parameters any more.
        image_by_image: for a layer whose statistics would otherwise be those of a whole batch.
    """

    statistics: Statistics | None = None
    tiles = 1

    def __init__(self, source: nn.Module, image_by_image: bool = False) -> None:
        super().__init__()
        self.kind = type(source).__name__
        self.source = source
        self.image_by_image = image_by_image
        self._affine = [name for name in AFFINE if source._parameters.get(name) is not None]
        for name in self._affine:
            value = getattr(source, name).detach()
            delattr(source, name)
            source.register_buffer(name, value)
        self.affine = bool(self._affine)
        self.weight_rows: Tensor | None = None
        self.bias_rows: Tensor | None = None

    @property
    def channels(self) -> int:
        """Values of the scale, or of the shift if it has no scale."""
        return max(self.source_weight.numel(), self.source_bias.numel())

    @property
    def source_weight(self) -> Tensor:
        """The source model's scale, ``[C]``, or ``[0]`` where there is none."""
        return self._source("weight")

    @property
    def source_bias(self) -> Tensor:
        """The source model's shift, ``[C]``, or ``[0]`` where there is none."""
        return self._source("bias")

    def _source(self, name: str) -> Tensor:
        if name in self._affine:
            return getattr(self.source, name).flatten()
        return getattr(self.source, self._affine[0]).new_zeros(0) if self._affine else torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, whose first dimension holds the images of each stream next to each other.

        That dimension may be longer than the number of images, as for the windows of a transformer.
        """
        values = {"weight": self.weight_rows, "bias": self.bias_rows}
        rows = [(name, row) for name in self._affine if (row := values[name]) is not None]
        streams = len(rows[0][1]) if rows else 1
        parts = len(x) if self.image_by_image else streams
        if len(x) % parts or parts % streams:
            raise ValueError(f"{len(x)} rows of a {self.kind} do not divide into {streams} streams")
        shapes = {name: getattr(self.source, name).shape for name in self._affine}
        out = []
        for index, part in enumerate(x.chunk(parts)):
            affine = {name: row[index * streams // parts].view(shapes[name]) for name, row in rows}
            out.append(functional_call(self.source, affine, (part,)) if affine else self.source(part))
        return out[0] if parts == 1 else torch.cat(out)


@dataclass(frozen=True)
class Wrapped:
    """What became of the normalisation layers of a network.

    Attributes:
        layers: those that were put in place, by the name of the (first) place, in module order.
        left: those that stay as in the source model, name -> kind and reason.
    """

    layers: dict[str, NormalisationLayer | OwnStatisticsLayer]
    left: dict[str, tuple[str, str]]


def wrap_normalisation(model: nn.Module) -> Wrapped:
    """Replace, in place, every normalisation layer that can be, wherever the network uses it."""
    layers: dict[str, NormalisationLayer | OwnStatisticsLayer] = {}
    left: dict[str, tuple[str, str]] = {}
    replaced: dict[nn.Module, nn.Module] = {}
    offset = 0
    parents = list(model.modules())
    for name, module in list(model.named_modules()):
        if not is_normalisation(module):
            continue
        reason = reason_to_leave(module)
        if reason is not None:
            left[name] = type(module).__name__, reason
        elif getattr(module, "running_mean", None) is not None:
            layers[name] = NormalisationLayer(module, offset, after(module) or ())
            offset += layers[name].channels
            replaced[module] = layers[name]
        else:
            layers[name] = OwnStatisticsLayer(module, image_by_image=isinstance(module, _BatchNorm))
            replaced[module] = layers[name]
    for parent in parents:  # by object, not by name: one layer may stand in several places
        for name, child in parent._modules.items():
            if child in replaced:
                parent._modules[name] = replaced[child]
    return Wrapped(layers, left)


def is_normalisation(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer: torch's, or one of another library by its name and its contents."""
    if isinstance(module, _NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm) or _running(module):
        return True
    weight = module._parameters.get("weight")
    return "norm" in type(module).__name__.lower() and weight is not None and weight.dim() == 1


def reason_to_leave(module: nn.Module) -> str | None:
    """Why a normalisation layer cannot be replaced, None where it can."""
    mixes_batch = isinstance(module, _BatchNorm) and module.running_mean is None
    if _running(module) or mixes_batch:
        if after(module) is None:
            return "its forward pass is not that of BatchNorm2d"
    elif not any(module._parameters.get(name) is not None for name in AFFINE):
        return "it has no scale or shift"
    return None


def _running(module: nn.Module) -> bool:
    """Whether a module keeps running statistics."""
    return any(module._buffers.get(name) is not None for name in ("running_mean", "running_var"))


def after(module: nn.Module) -> tuple[nn.Module, ...] | None:
    """What a layer with (or of a batch's) statistics applies to the normalised values, in order.

    Returns:
        None where the forward pass is not known, so that the layer must not be replaced.
    """
    hooks = module._forward_hooks or module._forward_pre_hooks
    if hooks or "forward" in vars(module) or type(module).__call__ is not nn.Module.__call__:
        return None
    names = _known_forwards().get(type(module).forward)
    if names is None or isinstance(module, nn.BatchNorm1d | nn.BatchNorm3d | nn.InstanceNorm1d | nn.InstanceNorm3d):
        return None
    return tuple(getattr(module, name) for name in names if hasattr(module, name))


def _known_forwards() -> dict[Callable[..., Tensor], tuple[str, ...]]:
    """Forward pass -> the attributes that it calls, in order, after it has normalised.

    Libraries that are not imported have no layers in any network.
    """
    known: dict[Callable[..., Tensor], tuple[str, ...]] = {
        _BatchNorm.forward: (),
        nn.SyncBatchNorm.forward: (),
        _InstanceNorm.forward: (),
    }
    if (torchvision := sys.modules.get("torchvision.ops")) is not None:
        known[torchvision.FrozenBatchNorm2d.forward] = ()
    if (timm := sys.modules.get("timm.layers")) is not None:
        for name in ("BatchNormAct2d", "SyncBatchNormAct", "FrozenBatchNormAct2d"):
            known[getattr(timm, name).forward] = ("drop", "act")
    return known


def calls_of(run: Callable[[], Tensor]) -> tuple[Tensor, Counter[nn.Module]]:
    """What ``run`` returns, and how often it calls each module, submodule of a known network or not."""
    calls: Counter[nn.Module] = Counter()
    hook = nn.modules.module.register_module_forward_pre_hook(lambda module, _: calls.update([module]))
    try:
        return run(), calls
    finally:
        hook.remove()


@contextmanager
def standing_in(model: nn.Module, values: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Let tensors stand in for parameters, wherever a network has them.

    ``torch.func.functional_call`` does not take them out again where a module has several names.
    """
    modules = [module._parameters for module in model.modules()]
    places = [
        (owned, name, value)
        for owned in modules
        for name, value in owned.items()
        if value is not None and value in values
    ]
    for owned, name, value in places:
        owned[name] = values[value]  # type: ignore[assignment]
    try:
        yield
    finally:
        for owned, name, value in places:
            owned[name] = value
