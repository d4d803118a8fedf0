"""What follows a normalisation layer in a known module, and is computed with it where kernels do both at once.

Only the forward pass of the module that holds both is another one, and only where there are such kernels. All layers
stay where and what they are, so that whoever calls them one by one, looks at what they give or has them in two places
finds those of the source model.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from tta_bench.models.normalisation_layer import is_observed, joins, normalised
from tta_bench.runtime.numerics import placement


def join(model: nn.Module) -> None:
    """Do so in a whole network, in place: blocks of a ResNet, and a layer that a ReLU follows in a sequence."""
    # Where it is not imported there is no such block, and it takes a second to import.
    block = getattr(sys.modules.get("torchvision.models.resnet"), "BasicBlock", None)
    for parent in model.modules():
        if "forward" in vars(parent):
            continue
        # The class alone changes: whoever refers to the module, by whatever name, has the joined one.
        if type(parent) is block:
            parent.__class__ = _joined(_Block, type(parent))
        elif type(parent).forward is nn.Sequential.forward and any(map(_are_joined, pairwise(parent.children()))):
            parent.__class__ = _joined(_Sequence, type(parent))


class _Joined(nn.Module):
    """What the joined modules share; bases of the classes of :func:`_joined`."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Made again from the classes that it has joined, which can be named."""
        return _new, type(self).__bases__, self.__getstate__()


class _Block(_Joined):
    """A block of torchvision's ResNet whose addition and ReLUs are computed with its normalisation layers."""

    def forward(self, x: Tensor) -> Tensor:
        """See ``torchvision.models.resnet.BasicBlock``."""
        parts: Any = self
        pairs = (parts.bn1, parts.relu), (parts.bn2, parts.relu)
        if not (placement(x.device, x.dtype).one_kernel and all(map(_are_joined, pairs))):
            return super().forward(x)
        made = parts.conv2(normalised(parts.bn1, parts.conv1(x), rectified_after=True))
        shortcut = x if parts.downsample is None else parts.downsample(x)  # gradients are added in the order of calls
        return normalised(parts.bn2, made, residual=shortcut, rectified_after=True)


class _Sequence(_Joined):
    """A sequence whose ReLUs are computed with the normalisation layers before them."""

    def forward(self, input: Any) -> Any:
        """See :class:`torch.nn.Sequential`."""
        if not (isinstance(input, Tensor) and placement(input.device, input.dtype).one_kernel):
            return super().forward(input)
        layers = list(self.children())
        while layers:
            layer = layers.pop(0)
            if layers and _are_joined((layer, layers[0])):
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


def _are_joined(pair: tuple[nn.Module, nn.Module]) -> bool:
    """Whether a layer and the ReLU that follows it are computed at once: nobody looks at what is between them."""
    layer, following = pair
    return (
        joins(layer) and type(following) is nn.ReLU and "forward" not in vars(following) and not is_observed(following)
    )
