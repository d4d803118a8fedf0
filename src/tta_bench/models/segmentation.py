"""The interface of every segmentation network: encoder, decoder, head and optional branches; networks by name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_bench.models.bank import Bank
from tta_bench.models.pretext import PRETEXT_TASKS
from tta_bench.ops.preprocessing import PAPER, Preprocessing
from tta_bench.ops.probabilities import Activation, probabilities
from tta_bench.registry import Registry

if TYPE_CHECKING:
    from tta_bench.models.catenorm import CategoricalNorm
    from tta_bench.schema import ModelConfig


class Activations(NamedTuple):
    """What one pass through the segmentation path yields, for ``N`` images."""

    bottleneck: Tensor
    """``[N, C, H/32, W/32]``, the encoder's output."""
    head_input: Tensor
    """``[N, C, H, W]``, the input of the classifier."""
    logits: Tensor
    """``[N, classes, H, W]``."""


class SegmentationModel(nn.Module):
    """A network with named intermediate outputs.

    Subclasses implement :meth:`encode`, :meth:`decode` and :meth:`classify`; those that are chosen by name also
    :meth:`configured`. Logits have one channel per class, at the resolution of the input. Under one random
    seed, the rest of the network starts from the same weights with branches and without.

    Args:
        bottleneck_channels: channels of the deepest feature map, the input of every branch.
        branches: auxiliary branches to build, each by the name of its pretext task.

    Attributes:
        activation: what the logits stand for: ``sigmoid``, a class on its own in each channel; or ``softmax``, classes
            that exclude each other. One object's own, to be set on the object.
        in_channels: of its images.
        probe_sizes: sides in pixels of the images that its adaptable copy is tried on, of which the first counts that
            it takes; every cell pays for it.
        categorical: layers of :mod:`tta_bench.models.catenorm`, with which the network runs twice; mostly none.
        preprocessing: of the images it is trained on; set by :meth:`expect`. All that is called with images takes them
            in [0, 1], except :meth:`encode`, which is behind the border.
        bank: of its source images, where a method is run that may see one; no part of what a checkpoint holds.
    """

    activation: Activation = "sigmoid"
    in_channels: int = 3
    probe_sizes: tuple[int, ...] = (32, 64)
    categorical: Sequence[CategoricalNorm] = ()
    preprocessing = PAPER
    bank: Bank | None = None
    _mean: Tensor | None
    _std: Tensor | None

    def __init__(self, bottleneck_channels: int, branches: Sequence[str] = ()) -> None:
        super().__init__()
        tasks = {name: PRETEXT_TASKS.get(name) for name in branches}
        with torch.random.fork_rng(devices=[]):
            self.branches = nn.ModuleDict({name: task.head(bottleneck_channels) for name, task in tasks.items()})
        self.expect(PAPER)

    def expect(self, preprocessing: Preprocessing) -> Self:
        """Take images of this preprocessing from now on; returns itself."""
        self.preprocessing = replace(preprocessing, channels=self.in_channels)
        like = next(self.parameters(), torch.empty(()))
        for name, values in (("_mean", preprocessing.mean), ("_std", preprocessing.std)):
            tensor = None if values is None else like.new_tensor(values)[:, None, None]
            self.register_buffer(name, tensor, persistent=False)  # the checkpoint has the numbers themselves
        return self

    @classmethod
    def configured(cls, config: ModelConfig, classes: int, encoder_weights: str | None) -> Self:
        """The network of a configuration.

        Args:
            config: the model section.
            classes: channels of the output.
            encoder_weights: those of ``config``, or None where a checkpoint will overwrite them.
        """
        raise NotImplementedError(f"{cls.__name__} is not built from a configuration")

    @classmethod
    def check(cls, config: ModelConfig) -> None:
        """Refuse a model section before any work.

        Raises:
            UserError: it is not of a network of this kind.
        """

    @classmethod
    def differences(cls, architecture: Mapping[str, Any], config: ModelConfig) -> list[str]:
        """What of a checkpoint's architecture is another in a configuration, each with the remedy; branches aside.

        The options are compared: a network whose weights depend on other keys says so itself.

        Args:
            architecture: the model section that the checkpoint was trained with.
            config: the model section that it is asked for with.
        """
        stored, asked = architecture.get("options", {}), config.options
        return [
            f"its {key} is {stored.get(key)}, but model.options.{key}={asked.get(key)}: "
            f"use model.options.{key}={stored.get(key)}"
            for key in sorted({*stored, *asked})
            if stored.get(key) != asked.get(key)
        ]

    @classmethod
    def name_elsewhere(cls, key: str) -> str:
        """What the library that the network comes from calls one of its weights; default: the same."""
        return key

    @abstractmethod
    def encode(self, images: Tensor) -> list[Tensor]:
        """Feature maps of ``[N, 3, H, W]`` network inputs, finest first; the last is the bottleneck, after ReLU."""

    @abstractmethod
    def decode(self, features: list[Tensor]) -> Tensor:
        """Input of the classifier ``[N, channels, H, W]`` from the encoder's feature maps."""

    @abstractmethod
    def classify(self, head_input: Tensor) -> Tensor:
        """Logits ``[N, classes, H, W]`` from the input of the classifier."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, classes, H, W]`` of images ``[N, 3, H, W]`` in [0, 1]; H and W are multiples of 32."""
        return self.classify(self.decode(self.features(images)))

    def features(self, images: Tensor) -> list[Tensor]:
        """The encoder's feature maps of images ``[N, 3, H, W]`` in [0, 1]."""
        if not self.categorical:
            return self.encode(self.network_input(images))
        with torch.no_grad():
            prediction = probabilities(self.one_pass(images), self.activation)
        return self._second_features(images, prediction)

    def one_pass(self, images: Tensor, prediction: Tensor | None = None) -> Tensor:
        """Logits of one pass of a network that runs twice: of the first, or of the second after this prediction."""
        if prediction is None:
            features = self.encode(self.network_input(images))
        else:
            features = self._second_features(images, prediction)
        return self.classify(self.decode(features))

    def _second_features(self, images: Tensor, prediction: Tensor) -> list[Tensor]:
        """The encoder's feature maps in the second pass; no gradient flows into the prediction."""
        for layer in self.categorical:
            layer.prediction = prediction.detach()
        try:
            return self.encode(self.network_input(images))
        finally:
            for layer in self.categorical:
                layer.prediction = None

    def network_input(self, images: Tensor) -> Tensor:
        """What the network is shown of images ``[N, 3, H, W]`` in [0, 1]: its border."""
        if self._mean is None or self._std is None:
            return images
        return (images - self._mean) / self._std

    def activations(self, images: Tensor) -> Activations:
        """As :meth:`forward`, with the feature maps on the way."""
        features = self.features(images)
        head_input = self.decode(features)
        return Activations(features[-1], head_input, self.classify(head_input))

    def branch(self, name: str, images: Tensor) -> Tensor:
        """Output of an auxiliary branch; the decoder does not run.

        Raises:
            KeyError: the model was built without this branch.
        """
        return self.branch_of(name, self.features(images))

    def branch_of(self, name: str, features: list[Tensor]) -> Tensor:
        """As :meth:`branch`, from the encoder's feature maps, of which it takes the last."""
        return self.branches[name](F.relu(features[-1]))


NETWORKS: Registry[type[SegmentationModel]] = Registry("network", "tta_bench.models.networks")
register_network = NETWORKS.register
"""Class decorator: make a :class:`SegmentationModel` available by name, ``@register_network("unet")``.

Raises:
    ValueError: the name is taken.
"""
