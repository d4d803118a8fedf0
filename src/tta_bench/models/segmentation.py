"""The interface of every segmentation network: encoder, decoder, head and optional branches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_bench.models.pretext import PRETEXT_TASKS


class SegmentationModel(nn.Module):
    """A network with named intermediate outputs.

    Subclasses implement :meth:`encode`, :meth:`decode` and :meth:`classify`. Logits have one sigmoid channel
    per class, at the resolution of the input. Under one random seed, the rest of the network starts from the same
    weights with branches and without.

    Args:
        bottleneck_channels: channels of the deepest feature map, the input of every branch.
        branches: auxiliary branches to build, each by the name of its pretext task.
    """

    def __init__(self, bottleneck_channels: int, branches: Sequence[str] = ()) -> None:
        super().__init__()
        tasks = {name: PRETEXT_TASKS.get(name) for name in branches}
        with torch.random.fork_rng(devices=[]):
            self.branches = nn.ModuleDict({name: task.head(bottleneck_channels) for name, task in tasks.items()})

    @abstractmethod
    def encode(self, images: Tensor) -> list[Tensor]:
        """Feature maps of ``[N, 3, H, W]`` images, finest first; the last is the bottleneck, after ReLU."""

    @abstractmethod
    def decode(self, features: list[Tensor]) -> Tensor:
        """Input of the classifier ``[N, channels, H, W]`` from the encoder's feature maps."""

    @abstractmethod
    def classify(self, head_input: Tensor) -> Tensor:
        """Logits ``[N, classes, H, W]`` from the input of the classifier."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes, H, W]`` of images ``[N, 3, H, W]``; H and W are multiples of 32."""
        return self.classify(self.decode(self.encode(images)))

    def branch(self, name: str, images: Tensor) -> Tensor:
        """Output of an auxiliary branch; the decoder does not run.

        Raises:
            KeyError: the model was built without this branch.
        """
        return self.branch_of(name, self.encode(images))

    def branch_of(self, name: str, features: list[Tensor]) -> Tensor:
        """As :meth:`branch`, from the encoder's feature maps."""
        return self.branches[name](F.relu(features[-1]))
