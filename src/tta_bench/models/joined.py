"""Known modules that compute the same in another way where that is faster.

What is next to a normalisation layer is computed with it: the ReLU and the shortcut behind it where kernels do all at
once; the convolution before it where both are folded. Upsampling to the nearest pixel repeats pixels.

Only the forward pass of the module that holds both is another one, and only in such places. All layers
stay where and what they are, so that whoever calls them one by one, looks at what they give or has them in two places
finds those of the source model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tta_bench.models.folded import convolved, folds
from tta_bench.models.normalisation_layer import NormalisationLayer, is_observed, joins, normalised
from tta_bench.models.upsampled import repeated
from tta_bench.runtime.numerics import placement


def join(model: nn.Module) -> None:
    """Do so in a whole network, in place: stem and blocks of a ResNet, sequences with neighbours, and upsampling."""
    # Where it is not imported there is no such module, and it takes a second to import.
    library = "segmentation_models_pytorch"
    known = {
        getattr(sys.modules.get("torchvision.models.resnet"), "BasicBlock", None): _Block,
        getattr(sys.modules.get(f"{library}.encoders.resnet"), "ResNetEncoder", None): _Encoder,
        getattr(sys.modules.get(f"{library}.decoders.unet.decoder"), "UnetDecoderBlock", None): _Decoder,
        nn.Upsample: _Upsample,
    }
    for parent in model.modules():
        if "forward" in vars(parent):
            continue
        # The class alone changes: whoever refers to the module, by whatever name, has the joined one.
        if type(parent) in known:
            parent.__class__ = _joined(known[type(parent)], type(parent))
        elif type(parent).forward is nn.Sequential.forward and any(map(_are_neighbours, pairwise(_layers(parent)))):
            parent.__class__ = _joined(_Sequence, type(parent))


class _Joined(nn.Module):
    """What the joined modules share; bases of the classes of :func:`_joined`."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Made again from the classes that it has joined, which can be named."""
        return _new, type(self).__bases__, self.__getstate__()


class _Block(_Joined):
    """A block of torchvision's ResNet whose layers are computed together."""

    def forward(self, x: Tensor) -> Tensor:
        """See ``torchvision.models.resnet.BasicBlock``."""
        parts: Any = self
        pairs = (parts.bn1, parts.relu), (parts.bn2, parts.relu)
        joined = all(map(_are_joined, pairs))
        if not (joined and (placement(x.device, x.dtype).one_kernel or folds(parts.bn1, x))):
            return super().forward(x)
        made = normalised(*convolved(parts.bn1, parts.conv1, x), rectified_after=True)
        second = convolved(parts.bn2, parts.conv2, made)
        shortcut = x if parts.downsample is None else parts.downsample(x)  # gradients are added in the order of calls
        return normalised(*second, residual=shortcut, rectified_after=True)


class _Encoder(_Joined):
    """A ResNet of segmentation-models-pytorch whose first layers are computed together."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """See ``segmentation_models_pytorch.encoders.resnet.ResNetEncoder``."""
        parts: Any = self
        joined = _are_joined((parts.bn1, parts.relu))
        if not (joined and (placement(x.device, x.dtype).one_kernel or folds(parts.bn1, x))):
            return super().forward(x)
        features = [x, normalised(*convolved(parts.bn1, parts.conv1, x), rectified_after=True)]
        for stage in range(1, parts._depth):
            made = parts.maxpool(features[-1]) if stage == 1 else features[-1]
            features.append(getattr(parts, f"layer{stage}")(made))
        return features


class _Decoder(_Joined):
    """A block of the U-Net of segmentation-models-pytorch that upsamples by repeating pixels."""

    def forward(self, feature_map: Tensor, height: int, width: int, skip_connection: Tensor | None = None) -> Tensor:
        """See ``segmentation_models_pytorch.decoders.unet.decoder.UnetDecoderBlock``."""
        parts: Any = self
        rows, columns = height / feature_map.shape[2], width / feature_map.shape[3]
        if not _is_repetition(parts.interpolation_mode, rows, columns, feature_map):
            return super().forward(feature_map, height, width, skip_connection)
        x = repeated(feature_map, int(rows), int(columns))
        if skip_connection is not None:
            x = parts.attention1(torch.cat([x, skip_connection], dim=1))
        return parts.attention2(parts.conv2(parts.conv1(x)))


class _Upsample(_Joined):
    """An upsampling that repeats pixels."""

    def forward(self, input: Tensor) -> Tensor:
        """See :class:`torch.nn.Upsample`."""
        parts: Any = self
        factors = parts.scale_factor if isinstance(parts.scale_factor, tuple) else 2 * (parts.scale_factor,)
        if parts.scale_factor is None or len(factors) != 2 or not _is_repetition(parts.mode, *factors, input):
            return super().forward(input)
        return repeated(input, *map(int, factors))


class _Sequence(_Joined):
    """A sequence whose normalisation layers are computed with the convolutions before or the ReLUs behind them."""

    def forward(self, input: Any) -> Any:
        """See :class:`torch.nn.Sequential`."""
        layers, where = _layers(self), placement(input.device, input.dtype) if isinstance(input, Tensor) else None
        if where is None or not (where.one_kernel or where.folded):
            return super().forward(input)
        while layers:
            layer = layers.pop(0)
            if layers and isinstance(layer, nn.Conv2d):
                layer, input = convolved(layers.pop(0), layer, input)
            if layers and where.one_kernel and _are_joined((layer, layers[0])):
                input = normalised(layer, input, rectified_after=True)
                layers.pop(0)
            else:
                input = layer(input)
        return input


def _joined(how: type[_Joined], kind: type[nn.Module]) -> type[nn.Module]:
    """A class of modules, joined."""
    if (how, kind) not in _CLASSES:
        _CLASSES[how, kind] = type(kind.__name__, (how, kind), {"__module__": kind.__module__})
    return _CLASSES[how, kind]


_CLASSES: dict[tuple[type[_Joined], type[nn.Module]], type[nn.Module]] = {}


def _new(how: type[_Joined], kind: type[nn.Module]) -> nn.Module:
    made = _joined(how, kind)
    return made.__new__(made)


def _is_repetition(mode: str, rows: float, columns: float, x: Tensor) -> bool:
    """Whether maps are upsampled by repeating every pixel so many times, on a device where that is the faster way."""
    whole = rows == int(rows) and columns == int(columns)
    return mode == "nearest" and whole and x.dim() == 4 and placement(x.device, x.dtype).repeats


def _layers(sequence: nn.Module) -> list[Any]:
    """In the order in which they are called; one that stands there twice is called twice."""
    return list(sequence._modules.values())


def _are_neighbours(pair: Sequence[nn.Module]) -> bool:
    """Whether a layer might be computed with the one after it."""
    first, second = pair
    return _are_joined((first, second)) or (isinstance(first, nn.Conv2d) and isinstance(second, NormalisationLayer))


def _are_joined(pair: tuple[nn.Module, nn.Module]) -> bool:
    """Whether a layer and the ReLU that follows it are computed at once: nobody looks at what is between them."""
    layer, following = pair
    return (
        joins(layer) and type(following) is nn.ReLU and "forward" not in vars(following) and not is_observed(following)
    )
