"""The adapted parameters of all streams and their optimiser, and how a method's state is taken down and restored."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from tta_bench.models.normalisation import Statistics

OptimizerName = Literal["adam", "sgd"]
MakeOptimizer = Callable[[list[dict[str, Any]]], Optimizer]


def make_optimizer(
    name: OptimizerName,
    momentum: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    nesterov: bool = False,
) -> MakeOptimizer:
    """A constructor of a torch optimiser over parameter groups; the learning rate is set at every step."""
    if name == "adam":
        return lambda groups: Adam(groups, lr=0.0, betas=betas)
    return lambda groups: SGD(groups, lr=0.0, momentum=momentum, nesterov=nesterov)


class AffineState:
    """One row of affine (or of all) parameters per stream, each with an optimiser state of its own.

    The rows are parameters that share the memory of one matrix. Each is a group of one torch optimiser, so that
    every stream has its own learning rate, and a row without a gradient is left out of a step altogether: its
    moments and its step counter stay as they are.

    Args:
        source: ``[scalars]``, where every row starts.
        streams: number of rows.
        optimizer: from :func:`make_optimizer`.
    """

    def __init__(self, source: Tensor, streams: int, optimizer: MakeOptimizer) -> None:
        self.theta = source.detach().repeat(streams, 1)
        self._rows = [nn.Parameter(row) for row in self.theta]
        self.optimizer = optimizer([{"params": [row]} for row in self._rows])

    def step(self, gradient: Tensor, learning_rate: Tensor, losses: Tensor) -> Tensor:
        """Update the first rows, those of the active streams.

        Args:
            gradient: ``[A, scalars]``.
            learning_rate: ``[A]``.
            losses: ``[A]``; a row whose loss, gradient or learning rate is not finite is skipped.

        Returns:
            Bool ``[A]``: which rows were skipped.
        """
        finite = gradient.isfinite().all(dim=1) & losses.isfinite() & learning_rate.isfinite()
        active = zip(finite.tolist(), learning_rate.tolist(), gradient, strict=True)
        for row in self._rows:
            row.grad = None
        for row, group, (is_finite, rate, row_gradient) in zip(
            self._rows, self.optimizer.param_groups, active, strict=False
        ):
            if is_finite:
                row.grad = row_gradient
                group["lr"] = rate
        self.optimizer.step()
        return ~finite

    def followed_gradient(self, streams: int) -> Tensor:
        """The gradients of the last :meth:`step` of the first streams, ``[A, scalars]``; NaN where it was skipped."""
        rows = [torch.full_like(row, torch.nan) if row.grad is None else row.grad for row in self._rows[:streams]]
        return torch.stack(rows)

    @torch.no_grad()
    def reset_row(self, row: int, source: Tensor) -> None:
        """Put one stream back to where it started, moments included."""
        self.theta[row] = source
        self.optimizer.state.pop(self._rows[row], None)

    def state_dict(self) -> dict[str, Any]:
        """All rows, with the moments and step counters of each."""
        return {"theta": self.theta, "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the rows and their optimiser state from as many streams."""
        self.theta.copy_(state_dict["theta"])
        self.optimizer.load_state_dict(copy.deepcopy(state_dict["optimizer"]))


def pack(value: Any) -> Any:
    """The same as tensors and plain values alone, which ``torch.load`` reads with ``weights_only=True``.

    As in the ``state_dict`` of a module the tensors share their memory with those of the value.

    Args:
        value: a tensor, None, a bool, number or string, a list, tuple or dict of such, a dataclass or statistics
            policy (packed by attribute), or anything with a ``state_dict`` of its own.

    Raises:
        TypeError: a value of another kind.
    """
    if isinstance(value, Tensor):
        return value.detach()
    # Exact types: a named tuple or a NumPy number would come back as something else.
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return type(value)(map(pack, value))
    if type(value) is dict:
        return {pack(key): pack(item) for key, item in value.items()}
    if hasattr(value, "state_dict"):
        return pack(dict(value.state_dict()))
    if _has_attributes(value):
        return pack(vars(value))
    raise TypeError(f"a {type(value).__name__} cannot be kept: give the method a state_dict and load_state_dict")


@torch.no_grad()
def unpack(present: Any, packed: Any) -> Any:
    """The value that was packed; objects are those that are present, with their content replaced.

    Args:
        present: what a fresh start has put in the place of the value.
        packed: from :func:`pack`; left unchanged.

    Raises:
        TypeError: the content of an object that a fresh start does not make.
    """
    if hasattr(present, "load_state_dict"):
        present.load_state_dict(packed)
        return present
    if isinstance(present, nn.Parameter):  # an optimiser holds it
        present.copy_(packed)
        return present
    if _has_attributes(present):
        vars(present).update({name: unpack(getattr(present, name, None), item) for name, item in packed.items()})
        return present
    if type(packed) in (list, tuple) and type(present) is type(packed) and len(present) == len(packed):
        return type(packed)(map(unpack, present, packed))
    if type(packed) is dict and type(present) is dict:
        return {key: unpack(present.get(key), item) for key, item in packed.items()}
    if type(packed) is dict:
        raise TypeError("an object that start does not make cannot be restored")
    return copy.deepcopy(packed)


def _has_attributes(value: Any) -> bool:
    """Whether an object is packed by attribute."""
    return (is_dataclass(value) and not isinstance(value, type)) or isinstance(value, Statistics)
