"""OCTL: fine-tuning that goes on with the optimiser of the source training (Goodman et al., DART 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import nn

from tta_bench.errors import UserError
from tta_bench.models.checkpoint.optimizer import Gathered
from tta_bench.offline.base import SystemCard, register_system
from tta_bench.offline.fine_tuning import LabelledOptions, LabelledSystem
from tta_bench.runtime.ranges import Decay, Range


@dataclass(frozen=True)
class OctlOptions(LabelledOptions):
    """Of OCTL; which optimiser it is, the source training has decided.

    Attributes:
        momentum: of SGD.
        beta1: of Adam.
        beta2: of Adam.
        steps_before: of Adam, that its bias correction takes to be made before the first one.
    """

    momentum: Decay
    beta1: Decay
    beta2: Decay
    steps_before: Annotated[int, Range(0, 10**9)]


def continued(
    parameters: Mapping[str, nn.Parameter], gathered: Gathered, options: OctlOptions
) -> torch.optim.Optimizer:
    """SGD or Adam with the hyper-parameters of the options and the momentum that a training before has gathered.

    A parameter of which nothing was gathered starts afresh.

    Args:
        parameters: by name.
        gathered: by the same names.
        options: of the fine-tuning.

    Raises:
        UserError: it is of neither.
    """
    kinds = {frozenset(state) - {"step"} for state in gathered.values()}
    optimizer: torch.optim.Optimizer
    if kinds == {frozenset({"exp_avg", "exp_avg_sq"})}:
        betas = (options.beta1, options.beta2)
        optimizer = torch.optim.Adam(parameters.values(), lr=options.learning_rate, betas=betas)
        step = {"step": torch.tensor(float(options.steps_before))}
    elif kinds == {frozenset({"momentum_buffer"})} and all(
        state["momentum_buffer"] is not None for state in gathered.values()
    ):
        optimizer = torch.optim.SGD(parameters.values(), lr=options.learning_rate, momentum=options.momentum)
        step = {}
    else:
        raise UserError(
            "adapt=octl goes on with the momentum of SGD or the moments of Adam, and the training of the source model "
            "has left neither: train it with training.optimizer=adam, or with sgd and training.momentum above 0"
        )
    for name, parameter in parameters.items():
        if name in gathered:
            kept = {key: value.to(parameter, copy=True) for key, value in gathered[name].items() if key != "step"}
            optimizer.state[parameter] = kept | {key: value.clone() for key, value in step.items()}
    return optimizer


@register_system("octl")
class Octl(LabelledSystem):
    """All layers are trained on the labelled images of the target, with the momentum of the source training."""

    card = SystemCard(
        adapts="all weights and normalisation statistics",
        needs=("source_optimiser", "target_labels"),
        paper="Goodman et al., DART 2022",
        licence="unknown",
    )
    Options: ClassVar[type[OctlOptions]] = OctlOptions

    def new_optimizer(self) -> torch.optim.Optimizer:
        """See :func:`continued`."""
        return continued(dict(self.model.named_parameters()), self.access.source_optimiser, self.options)
