"""What a system is: it makes an adapted model of a source model, epoch by epoch, from what its card declares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.methods.base import MethodOptions
from tta_bench.methods.state import State
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.offline.access import Access
from tta_bench.offline.card import SystemCard
from tta_bench.ops.draws import seed_of
from tta_bench.registry import Registry
from tta_bench.runtime.ranges import Decay, Positive, Range

Curve = Mapping[str, float]
"""What is told of an epoch: name -> value, ``loss`` among them where there is one."""


@dataclass(frozen=True)
class SystemOptions(MethodOptions):
    """Hyper-parameters of a system; every field is a key of its YAML, with its value.

    Attributes:
        batch_size: target images at a time.
    """

    batch_size: Annotated[int, Range(1, 2**16)]


@dataclass(frozen=True)
class TrainedOptions(SystemOptions):
    """Of a system that trains with Adam.

    Attributes:
        epochs: passes over the target's images; the last one counts.
        learning_rate: of Adam.
        beta2: of Adam; its first beta is 0.9.
    """

    epochs: Annotated[int, Range(1, 10**6)]
    learning_rate: Positive
    beta2: Decay


class System(State, ABC):
    """Base of every system. What it assigns to itself is its state, and is kept so that a killed run goes on.

    Args:
        model: a copy of the source model, in eval mode on the device to use; changed in place.
        access: what the card declares.
        options: hyper-parameters.
        seed: of its random draws.

    Raises:
        UserError: it cannot work on this model.
    """

    card: ClassVar[SystemCard]
    Options: ClassVar[type[SystemOptions]] = SystemOptions
    grows: ClassVar[Literal["never", "far", "always"]] = "never"
    """When a stage makes a further model: never, where its images are far from earlier ones, or always."""
    of_stages: ClassVar[bool] = False
    """Whether it is made for stages alone."""
    transient = frozenset({"access", "options", "seed"})

    def __init__(self, model: SegmentationModel, access: Access, options: Any, seed: int) -> None:
        super().__init__()
        self.model = model
        self.access = access
        self.options = options
        self.seed = seed

    @property
    def epochs(self) -> int:
        """How often :meth:`epoch` is called."""
        return 1

    @abstractmethod
    def epoch(self, number: int) -> Curve:
        """One pass, counted from 0; returns what is told of it. Its draws depend on the seed and ``number`` alone."""

    def adapted(self) -> SegmentationModel:
        """What it has made; default: the model that it was given."""
        return self.model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def generator(self, *purpose: object) -> torch.Generator:
        """Random numbers for a purpose, on the CPU: the same on every device."""
        return torch.Generator().manual_seed(seed_of(self.seed, *purpose))

    def target_batches(self, epoch: int) -> list[list[int]]:
        """A new order of the target's images for an epoch, in batches."""
        count = len(self.access.target_images)
        order = torch.randperm(count, generator=self.generator("order", epoch)).tolist()
        return batches(order, self.options.batch_size)


class TrainedSystem(System):
    """A system that trains the model on the target's images with Adam.

    Subclasses implement :meth:`loss`.
    """

    Options: ClassVar[type[TrainedOptions]] = TrainedOptions

    def __init__(self, model: SegmentationModel, access: Access, options: Any, seed: int) -> None:
        super().__init__(model, access, options, seed)
        self.optimizer = self.new_optimizer()

    def new_optimizer(self) -> torch.optim.Optimizer:
        """What steps; default: Adam, over all parameters."""
        betas = (0.9, self.options.beta2)
        return torch.optim.Adam(self.model.parameters(), lr=self.options.learning_rate, betas=betas)

    @property
    def epochs(self) -> int:
        """As the options say."""
        return int(self.options.epochs)

    def steps(self, number: int) -> list[list[int]]:
        """The places that :meth:`loss` is given, step by step of an epoch; default: all target images, once each."""
        return self.target_batches(number)

    @abstractmethod
    def loss(self, places: list[int], generator: torch.Generator) -> Tensor:
        """Scalar loss of a batch of target images; the model is in train mode.

        Args:
            places: of the images in ``access.target_images``, or as :meth:`steps` has them.
            generator: the random draws of this batch.
        """

    def epoch(self, number: int) -> Curve:
        """A step per batch; none of one whose loss is 0, as where no pixel is trusted: momentum would make one.

        Raises:
            UserError: a loss is not finite.
        """
        losses = []
        self.model.train()
        for index, places in enumerate(self.steps(number)):
            loss = self.loss(places, self.generator("batch", number, index))
            if not torch.isfinite(loss):
                raise UserError(
                    f"the adaptation diverged in epoch {number + 1} (loss {loss.item()}): "
                    f"lower adapt.learning_rate={self.options.learning_rate}"
                )
            losses.append(loss.detach())
            if loss == 0:
                continue
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.after_step()
        self.model.eval()
        return {"loss": float(torch.stack(losses).mean()), "lr": float(self.optimizer.param_groups[0]["lr"])}

    def after_step(self) -> None:
        """What follows every step of the optimiser; default: nothing."""


def batches(order: list[int], size: int) -> list[list[int]]:
    """Runs of at most ``size`` of an order, as equal as can be: a single image is a batch only where it is alone.

    >>> batches([4, 2, 0, 1, 3], 4)
    [[4, 2, 0], [1, 3]]
    """
    number = -(-len(order) // size)
    ends = [round(len(order) * (part + 1) / number) for part in range(number)]
    return [order[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


SYSTEMS: Registry[type[System]] = Registry("system", "tta_bench.offline")
register_system = SYSTEMS.register
"""Class decorator: make a :class:`System` available by name, ``@register_system("dpl")``.

Raises:
    ValueError: the name is taken.
"""
