"""SpotTUNet: for every image and layer, the source model's copy or a fine-tuned one (Zakazov et al., MICCAI 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tta_bench.errors import UserError
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.models.spottuned import FROZEN, SpotTuned, layers_of
from tta_bench.offline.access import Access
from tta_bench.offline.base import SystemCard, register_system
from tta_bench.offline.fine_tuning import FineTuneAll, FineTuningOptions, cross_entropy, learning_rate
from tta_bench.ops.draws import seed_of
from tta_bench.runtime.ranges import NonNegative, Positive


@dataclass(frozen=True)
class SpotTunetOptions(FineTuningOptions):
    """Of SpotTUNet; the optimiser is that of the fine-tuned copies.

    Attributes:
        weight: of the number of fine-tuned layers in the loss.
        temperature: of the Gumbel softmax.
        policy_learning_rate: of the policy's SGD; falls as the other one does.
        policy_weight_decay: of the policy's SGD.
    """

    weight: NonNegative
    temperature: Positive
    policy_learning_rate: Positive
    policy_weight_decay: NonNegative


def gumbel_choice(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """A draw of the frozen copy, 1, or the fine-tuned one, 0, by the probabilities of the logits ``[..., 2]``.

    The gradient is that of the softmax of the noisy logits at this temperature.
    """
    noise = -torch.empty(logits.shape).exponential_(generator=generator).log()
    soft = torch.softmax((logits + noise.to(logits)) / temperature, -1)[..., FROZEN]
    return (soft >= 0.5).to(soft.dtype) + (soft - soft.detach())


def spot_tuned(model: SegmentationModel, image: Tensor, seed: int) -> SpotTuned:
    """The network of two equal copies of a model, with a new policy.

    Args:
        model: taken over.
        image: ``[1, C, H, W]`` in [0, 1], of any content.
        seed: of the policy's first weights.

    Raises:
        UserError: the model is such a network already, runs twice, or has no layers of which there can be two.
    """
    if isinstance(model, SpotTuned):
        raise UserError("adapt=spottunet: the source model is one of adapt=spottunet already: give the one before that")
    if model.categorical:
        raise UserError(
            "adapt=spottunet chooses once for an image, and a network with model.norm=catenorm runs twice: choose "
            "another system, or a source model without it"
        )
    device = next(model.parameters()).device
    layers = layers_of(model, image)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(seed, "policy"))
        return SpotTuned(model, layers).to(device)


@register_system("spottunet")
class SpotTunet(FineTuneAll):
    """A copy of all layers is trained on labelled target images, and a policy that chooses it or the source's."""

    card = SystemCard(
        adapts="a second copy of the layers, and a policy that chooses one of the two for every image and layer",
        needs=("target_labels",),
        paper="Zakazov et al., MICCAI 2021; Sheikh et al., DART 2022",
        licence="unknown",
    )
    Options: ClassVar[type[SpotTunetOptions]] = SpotTunetOptions
    transient = frozenset({"shares"})
    model: SpotTuned

    def __init__(self, model: SegmentationModel, access: Access, options: Any, seed: int) -> None:
        twofold = spot_tuned(model, access.target_labels.images.batch([0]), seed)
        super().__init__(twofold, access, options, seed)
        rate, decay = options.policy_learning_rate, options.policy_weight_decay
        self.policy_optimizer = torch.optim.SGD(twofold.policy.parameters(), lr=rate, weight_decay=decay)
        self.shares: list[Tensor] = []

    def trained(self) -> list[nn.Parameter]:
        """Those of the fine-tuned copies; beside the policy's, the others need no gradient."""
        self.model.requires_grad_(False)
        tuned = [spot.tuned for group in self.model.spots for spot in group]
        for module in (*tuned, self.model.policy):
            module.requires_grad_(True)
        return [parameter for module in tuned for parameter in module.parameters()]

    def epoch(self, number: int) -> dict[str, float]:
        """As of the base class; ``frozen`` is the fraction of layers and images that the source model's copy served."""
        self.shares = []
        for group in self.policy_optimizer.param_groups:
            group["lr"] = learning_rate(self.options.policy_learning_rate, number, self.epochs)
        told = super().epoch(number)
        return told | {"frozen": float(torch.stack(self.shares).mean())}

    def loss(self, places: list[int], generator: torch.Generator) -> Tensor:
        """Cross-entropy of the batch on the way that is drawn for each image, and how many layers are fine-tuned."""
        images, labels = (each.to(self.device) for each in self.batch(places, generator))
        choice = gumbel_choice(self.model.logits_of_policy(images), self.options.temperature, generator)
        self.shares.append(choice.detach().mean())
        segmentation = cross_entropy(self.model, self.model.chosen(images, choice), labels)
        return segmentation + self.options.weight * (1 - choice).sum(1).mean()

    def after_step(self) -> None:
        """The policy's step."""
        self.policy_optimizer.step()
        self.policy_optimizer.zero_grad()
