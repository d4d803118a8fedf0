"""What an objective is: a label-free loss of a network on images, one value per stream."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.graphs import replayable
from tta_bench.models.normalisation import Statistics
from tta_bench.models.pretext import PRETEXT_TASKS, PretextTask
from tta_bench.ops.probabilities import Activation
from tta_bench.registry import Registry

Objective = Callable[..., Tensor]
"""``objective(network, images [S, 3, H, W], draws, **options) -> losses [S]``, pure: same input, same output."""

OBJECTIVES: Registry[Objective] = Registry("objective", "tta_bench.objectives")


def register_objective(
    name: str, *, branch: str | None = None, stochastic: bool | Callable[..., bool] = True
) -> Callable[[Objective], Objective]:
    """Function decorator: make an objective available by name.

    Args:
        name: as in ``method.pseudo=``.
        branch: the auxiliary branch that it needs, if any; the branch's affine parameters are adapted too.
        stochastic: whether it draws at random; of an objective with options a function of them, given by name.

    Raises:
        ValueError: the name is taken.
    """

    def decorate(objective: Objective) -> Objective:
        objective.branch = branch  # type: ignore[attr-defined]
        objective.stochastic = stochastic  # type: ignore[attr-defined]
        return OBJECTIVES.register(name)(objective)

    return decorate


def register_pretext_task(
    name: str,
    *,
    head: Callable[[int], nn.Module],
    training_loss: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor],
    stochastic: bool | Callable[..., bool] = True,
) -> Callable[[Objective], Objective]:
    """Function decorator: make a pretext task available by name, and with it the objective that it decorates.

    Args:
        name: as in ``model.branches=`` and ``method.pseudo=``.
        head: see :class:`~tta_bench.models.pretext.PretextTask`.
        training_loss: likewise.
        stochastic: see :func:`register_objective`.

    Raises:
        ValueError: the name is taken.
    """
    PRETEXT_TASKS.register(name)(PretextTask(head, training_loss))
    return register_objective(name, branch=name, stochastic=stochastic)


def branches_of(names: Sequence[str]) -> tuple[str, ...]:
    """The branches that the objectives called ``names`` need, each once, in this order.

    Raises:
        UserError: unknown name.
    """
    branches = [getattr(OBJECTIVES.get(name), "branch", None) for name in names]
    return tuple(dict.fromkeys(branch for branch in branches if branch is not None))


@dataclass(frozen=True)
class BoundNetwork:
    """A network with its adaptable state and statistics filled in: what an objective sees.

    Attributes:
        network: the adaptable network.
        theta: ``[S, scalars]``.
        statistics: normalisation policy.
    """

    network: AdaptableNetwork
    theta: Tensor
    statistics: Statistics

    @property
    def activation(self) -> Activation:
        """What the logits stand for."""
        return self.network.activation

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``[S * V, classes, H, W]`` of ``[S * V, 3, H, W]`` images."""
        return self.network(images, self.theta, self.statistics)

    def branch(self, name: str, images: Tensor) -> Tensor:
        """Output of an auxiliary branch."""
        return self.network.branch(name, images, self.theta, self.statistics)

    def replayable(
        self, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor, **settings: Hashable
    ) -> tuple[Tensor, ...]:
        """``function(self, *inputs, **settings)``, which a GPU may be given at once, its passes and what follows them.

        Args:
            function: of a module; it draws nothing at random, sends nothing to the device and asks it for nothing.
            inputs: all tensors that it depends on, the state of the network aside.
            settings: plain values.

        Returns:
            New tensors; gradients flow to theta from those that depend on it.
        """

        def compute(theta: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
            return function(replace(self, theta=theta), *inputs, **settings)

        key = function, tuple(sorted(settings.items()))
        return replayable(self.network, key, compute, self.statistics, self.theta, *inputs)


def bind_objective(name: str, **options: object) -> Objective:
    """The objective called ``name`` with those of ``options`` that it takes.

    Raises:
        UserError: unknown name.
    """
    return _with_its_options(OBJECTIVES.get(name), options)


def options_taken(names: Sequence[str], options: Iterable[str]) -> set[str]:
    """Those of ``options`` that one of the objectives with these names takes.

    Raises:
        UserError: unknown name.
    """
    taken = (_with_its_options(OBJECTIVES.get(name), dict.fromkeys(options)).keywords for name in names)
    return {option for each in taken for option in each}


def draws_at_random(name: str, **options: object) -> bool:
    """Whether the objective called ``name`` depends on the seed, with those of ``options`` that it takes.

    Raises:
        UserError: unknown name.
    """
    stochastic = getattr(OBJECTIVES.get(name), "stochastic", True)
    return _with_its_options(stochastic, options)() if callable(stochastic) else stochastic


def _with_its_options(function: Callable[..., Any], options: Mapping[str, object]) -> functools.partial[Any]:
    accepted = inspect.signature(function).parameters
    return functools.partial(function, **{k: v for k, v in options.items() if k in accepted})
