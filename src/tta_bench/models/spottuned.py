"""A network with two copies of its layers and a policy that chooses one of them, layer by layer, for every image.

This is the network of SpotTUNet (Zakazov et al., MICCAI 2021), after SpotTune (Guo et al., CVPR 2019): one copy is the
source model's and stays so, the other one is fine-tuned.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_bench.errors import UserError
from tta_bench.models.segmentation import Activations, SegmentationModel
from tta_bench.models.wrapping import is_normalisation

WIDTHS = (64, 128, 256)
"""Channels of the policy's stages, as in the authors' code."""

GROUPS = 8
"""Of the policy's normalisation, which has neither parameters nor running statistics: it is never adapted."""

FROZEN = 0
"""Which of the two logits of a layer is that of the source model's copy; the other one is the fine-tuned copy's."""


class SpotLayer(nn.Module):
    """A layer of the source model, and a copy of it that is fine-tuned.

    Args:
        source: the layer, which becomes the fine-tuned one.

    Attributes:
        frozen: the source model's, in eval mode whatever the mode of the network.
        choice: ``[N]``, while a pass runs: 1 for the images that the frozen copy serves, 0 for those of the other one.
    """

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.frozen = copy.deepcopy(source)
        self.tuned = source
        self.choice: Tensor | None = None

    def train(self, mode: bool = True) -> SpotLayer:
        """Of the fine-tuned copy alone."""
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Of ``[N, ...]``, for every image what the copy that is chosen gives.

        Raises:
            UserError: what one of the copies gives is looked at, as if it were the layer's.
        """
        if self.frozen._forward_hooks or self.tuned._forward_hooks:
            raise UserError(
                "the features behind a layer are asked for, and the network of adapt=spottunet has two of each: choose "
                "another method, or another system"
            )
        assert self.choice is not None
        frozen, tuned = self.frozen(x), self.tuned(x)
        choice = self.choice.to(frozen.dtype).view(-1, *[1] * (frozen.dim() - 1))
        return frozen * choice + tuned * (1 - choice)


class _Residual(nn.Module):
    """Two convolutions beside a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1)
        self.second = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1)
        self.around = nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` to ``[N, outputs, H / stride, W / stride]``, after ReLU."""
        inner = F.relu(F.group_norm(self.first(x), GROUPS))
        return F.relu(F.group_norm(self.second(inner), GROUPS) + self.around(x))


class Policy(nn.Module):
    """A small residual network that looks at an image and has two logits for every layer of another one.

    Args:
        channels: of the images.
        layers: how many.
    """

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, WIDTHS[0], kernel_size=7, stride=4, padding=3)
        inputs, strides = (WIDTHS[0], *WIDTHS[:-1]), (1, *[2] * (len(WIDTHS) - 1))
        self.stages = nn.Sequential(*(_Residual(*each) for each in zip(inputs, WIDTHS, strides, strict=True)))
        self.head = nn.Linear(WIDTHS[-1], 2 * layers)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, layers, 2]`` of network inputs ``[N, C, H, W]``."""
        features = self.stages(F.relu(F.group_norm(self.stem(images), GROUPS)))
        return self.head(features.mean((2, 3))).unflatten(1, (-1, 2))


class SpotTuned(SegmentationModel):
    """A network in which every image takes its own way through two copies of the layers.

    What is no part of these layers is the source model's, once, its branches among it.

    Args:
        source: the network; it is taken over, and its layers become the fine-tuned copies.
        layers: names of the modules of every layer, which share a choice; see :func:`layers_of`.
    """

    def __init__(self, source: SegmentationModel, layers: Sequence[Sequence[str]]) -> None:
        super().__init__(bottleneck_channels=0)
        self.activation, self.in_channels = source.activation, source.in_channels
        self.layers = [list(names) for names in layers]
        spots = [{source.get_submodule(name): name for name in names} for names in layers]
        made = [{module: SpotLayer(module) for module in group} for group in spots]
        self.spots = [list(group.values()) for group in made]
        replaced = {module: spot for group in made for module, spot in group.items()}
        for parent in [each for each in source.modules() if not isinstance(each, SpotLayer)]:
            for name, child in parent._modules.items():
                if child in replaced:
                    parent._modules[name] = replaced[child]
        self.branches, source.branches = source.branches, nn.ModuleDict()
        self.network = source
        self.policy = Policy(self.in_channels, len(layers))
        self.expect(source.preprocessing)

    def logits_of_policy(self, images: Tensor) -> Tensor:
        """``[N, layers, 2]`` of images ``[N, C, H, W]`` in [0, 1], the first of two for the frozen copy."""
        return self.policy(self.network_input(images))

    def choice(self, images: Tensor) -> Tensor:
        """The copy of the larger logit: ``[N, layers]``, 1 for frozen and 0 for fine-tuned, without a graph."""
        with torch.no_grad():
            logits = self.logits_of_policy(images)
            return (logits.argmax(-1) == FROZEN).to(logits.dtype)

    def chosen(self, images: Tensor, choice: Tensor) -> Tensor:
        """Logits of images with a choice ``[N, layers]`` that is given, into which gradients flow."""
        with self._in_force(choice):
            return super().forward(images)

    def forward(self, images: Tensor) -> Tensor:
        """See the base class."""
        return self.chosen(images, self.choice(images))

    def activations(self, images: Tensor) -> Activations:
        """See the base class."""
        with self._in_force(self.choice(images)):
            return super().activations(images)

    def features(self, images: Tensor) -> list[Tensor]:
        """See the base class; within another pass the choice is that pass's."""
        if self.spots[0][0].choice is not None:
            return super().features(images)
        with self._in_force(self.choice(images)):
            return super().features(images)

    def encode(self, images: Tensor) -> list[Tensor]:
        """See the base class; a choice is in force."""
        return self.network.encode(images)

    def decode(self, features: list[Tensor]) -> Tensor:
        """See the base class; a choice is in force."""
        return self.network.decode(features)

    def classify(self, head_input: Tensor) -> Tensor:
        """See the base class; a choice is in force."""
        return self.network.classify(head_input)

    @contextmanager
    def _in_force(self, choice: Tensor) -> Iterator[None]:
        """Give every layer its column of the choice, and take it away afterwards."""
        for group, column in zip(self.spots, choice.unbind(1), strict=True):
            for spot in group:
                spot.choice = column
        try:
            yield
        finally:
            for group in self.spots:
                for spot in group:
                    spot.choice = None


def layers_of(model: SegmentationModel, image: Tensor) -> list[list[str]]:
    """The layers of the segmentation path: each a convolution and the normalisation that follows it, by their names.

    Modules that are not called on their own, because a network computes with their weights itself, are left out, as
    are those that do not see images next to each other. On every device they are what they are on a CPU.

    Args:
        model: as it is.
        image: ``[1, C, H, W]`` in [0, 1], of any content.

    Raises:
        UserError: there is none.
    """
    count = 3  # by which a dimension of images is told from most others
    traced = copy.deepcopy(model).cpu().float().eval()
    order: dict[nn.Module, bool] = {}

    def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        fits = len(inputs) == 1 and all(
            isinstance(each, Tensor) and each.dim() > 1 and len(each) == count for each in (*inputs, output)
        )
        order[module] = order.get(module, True) and fits

    names = {module: name for name, module in traced.named_modules() if _has_weights_itself(module)}
    for module in names:
        module.register_forward_hook(look)
    with torch.no_grad():
        traced(image.cpu().expand(count, -1, -1, -1))
    layers: list[list[str]] = []
    for module in (module for module, fits in order.items() if fits):
        if is_normalisation(module) and layers:
            layers[-1].append(names[module])
        else:
            layers.append([names[module]])
    if not layers:
        raise UserError("adapt=spottunet chooses between copies of layers, and this network calls none: choose another")
    return layers


def _has_weights_itself(module: nn.Module) -> bool:
    """Whether a module has parameters, and none of its submodules has any."""
    own = {id(each) for each in module._parameters.values() if each is not None}
    return bool(own) and own == {id(each) for each in module.parameters()}
