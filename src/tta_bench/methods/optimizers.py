"""Adam and SGD as algebra on rows: one row of parameters per stream, each with a rate and a past of its own.

Bit for bit what ``torch.optim`` gives for each row alone, without asking the device for a number: a step of all streams
is a handful of kernels, and the host waits for none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

OptimizerName = Literal["adam", "sgd"]


class Optimizer(Protocol):
    """The rule by which rows of parameters follow their gradients."""

    @property
    def moments(self) -> int:
        """How many moments it keeps of each scalar."""

    def corrections(self, steps: int) -> Tensor:
        """Of each moment how far it has come from its start at zero after 1, 2, ... steps: ``[moments, steps]``."""

    def __call__(
        self, theta: Tensor, gradient: Tensor, rate: Tensor, moments: Tensor, corrections: Tensor, is_first: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The rows and their moments after one step.

        Args:
            theta: ``[A, scalars]``; left unchanged, as are all arguments.
            gradient: ``[A, scalars]``.
            rate: ``[A, 1]``, float64.
            moments: ``[moments, A, scalars]``.
            corrections: ``[moments, A, 1]``, float64, of the step of each row.
            is_first: Bool ``[A, 1]``: which rows have not made a step.
        """


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, ICLR 2015) with bias correction and without weight decay.

    Attributes:
        betas: weight of the past in the mean of the gradient and in that of its square.
        eps: added to the root of the latter.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    moments: ClassVar[int] = 2

    def corrections(self, steps: int) -> Tensor:
        """See :class:`Optimizer`; of the square its root. Powers of the host, which differ from a device's."""
        first, second = self.betas
        counts = range(1, steps + 1)
        table = [[1 - first**count for count in counts], [(1 - second**count) ** 0.5 for count in counts]]
        return torch.tensor(table, dtype=torch.float64)

    def __call__(
        self, theta: Tensor, gradient: Tensor, rate: Tensor, moments: Tensor, corrections: Tensor, is_first: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """See :class:`Optimizer`."""
        mean = torch.lerp(moments[0], gradient, 1 - self.betas[0])
        square = (moments[1] * self.betas[1]).addcmul_(gradient, gradient, value=1 - self.betas[1])
        scale = square.sqrt().div_(corrections[1].to(theta)).add_(self.eps)
        step = (mean * (-(rate / corrections[0])).to(theta)).div_(scale)
        return step.add_(theta), [mean, square]


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent.

    Attributes:
        momentum: weight of the past steps; the first one is not damped.
        nesterov: whether the momentum is Nesterov's.
    """

    momentum: float = 0.0
    nesterov: bool = False

    @property
    def moments(self) -> int:
        """See :class:`Optimizer`."""
        return 1 if self.momentum else 0

    def corrections(self, steps: int) -> Tensor:
        """See :class:`Optimizer`: none, because the first step is where the moment starts."""
        return torch.ones(self.moments, steps)

    def __call__(
        self, theta: Tensor, gradient: Tensor, rate: Tensor, moments: Tensor, corrections: Tensor, is_first: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """See :class:`Optimizer`."""
        moved = [torch.where(is_first, gradient, moment * self.momentum + gradient) for moment in moments]
        for velocity in moved:
            gradient = gradient.add(velocity, alpha=self.momentum) if self.nesterov else velocity
        # One rounding, as in an addition of a multiple.
        return torch.addcmul(theta, gradient, (-rate).to(theta)), moved


def make_optimizer(
    name: OptimizerName,
    momentum: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    nesterov: bool = False,
) -> Optimizer:
    """The optimiser of these options; the learning rate is an argument of every step."""
    return Adam(betas) if name == "adam" else SGD(momentum, nesterov)
