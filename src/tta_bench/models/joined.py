"""What follows a normalisation layer in a known module, and is computed with it where kernels do both at once."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from tta_bench.models.normalisation_layer import NormalisationLayer, normalised


class JoinedBlock(BasicBlock):
    """A ResNet's block whose additions and ReLUs belong to its normalisation layers."""

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`torchvision.models.resnet.BasicBlock`."""
        made = self.conv2(normalised(self.bn1, self.conv1(x), rectified_after=True))
        shortcut = x if self.downsample is None else self.downsample(x)  # gradients are added in the order of calls
        return normalised(self.bn2, made, residual=shortcut, rectified_after=True)


def join(model: nn.Module) -> None:
    """Do so in a whole network, in place: blocks of a ResNet, and a layer that a ReLU follows in a sequence."""
    for parent in model.modules():
        if type(parent) is BasicBlock and type(parent.relu) is nn.ReLU:
            parent.__class__ = JoinedBlock
        elif type(parent).forward is nn.Sequential.forward:
            for (_, layer), (name, following) in itertools.pairwise(list(parent._modules.items())):
                if isinstance(layer, NormalisationLayer) and type(following) is nn.ReLU:
                    layer.rectifies = True
                    parent._modules[name] = nn.Identity()
