"""The adapted parameters of all streams and their optimiser, and how a method's state is taken down and restored."""

from __future__ import annotations

import copy
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tta_bench.methods.optimizers import Optimizer
from tta_bench.models.normalisation import Statistics

FIRST_TABLE = 64
"""Steps that the first table of corrections is made for; every further one is twice as long."""


class AffineState:
    """One row of affine (or of all) parameters per stream, each with an optimiser state of its own.

    Args:
        source: ``[scalars]``, where every row starts.
        streams: number of rows.
        optimizer: from :func:`~tta_bench.methods.optimizers.make_optimizer`.

    Attributes:
        theta: ``[streams, scalars]``.
        moments: of the optimiser, ``[moments, streams, scalars]``; zeros before the first step.
        steps: ``[streams]``, how many each row has made.
    """

    def __init__(self, source: Tensor, streams: int, optimizer: Optimizer) -> None:
        self.theta = source.detach().repeat(streams, 1)
        self.optimizer = optimizer
        self.moments = self.theta.new_zeros(optimizer.moments, *self.theta.shape)
        self.steps = torch.zeros(streams, dtype=torch.long, device=self.theta.device)
        self._calls = 0
        self._corrections = torch.empty(optimizer.moments, 0)

    @torch.no_grad()
    def step(self, gradient: Tensor, learning_rate: Tensor, losses: Tensor) -> Tensor:
        """Update the first rows, those of the active streams; the device is not waited for.

        A row that is skipped stays as it is, its moments and its step counter included.

        Args:
            gradient: ``[A, scalars]``.
            learning_rate: ``[A]``.
            losses: ``[A]``; a row whose loss, gradient or learning rate is not finite is skipped.

        Returns:
            Bool ``[A]``: which rows were skipped.
        """
        largest = torch.linalg.vector_norm(gradient, torch.inf, dim=1)  # NaN, if there is one
        finite = torch.stack([largest, losses, learning_rate]).isfinite().all(dim=0)
        count, kept = len(gradient), finite[:, None]
        theta, moments, steps = self.theta[:count], self.moments[:, :count], self.steps[:count]
        corrections = self._table()[:, steps, None]
        stepped, moved = self.optimizer(
            theta, gradient, learning_rate.double()[:, None], moments, corrections, (steps == 0)[:, None]
        )
        for present, after in ((theta, stepped), *zip(moments, moved, strict=True)):
            torch.where(kept, after, present, out=present)
        steps += finite
        self._latest = gradient, kept
        return ~finite

    def _table(self) -> Tensor:
        """The optimiser's corrections ``[moments, steps]``, long enough for a row that was never skipped."""
        self._calls += 1
        if self._calls > self._corrections.shape[1]:
            self._corrections = self.optimizer.corrections(max(FIRST_TABLE, 2 * self._calls)).to(self.theta.device)
        return self._corrections

    def followed_gradient(self, streams: int) -> Tensor:
        """The gradients of the last :meth:`step` of the first streams, ``[A, scalars]``; NaN where it was skipped."""
        gradient, kept = self._latest
        return torch.where(kept, gradient, torch.nan)[:streams]

    @torch.no_grad()
    def reset(self, is_reset: Tensor, source: Tensor) -> None:
        """Put the first streams back to where they started, moments included, where Bool ``[A]`` says so."""
        count, rows = len(is_reset), is_reset[:, None]
        self.theta[:count] = torch.where(rows, source, self.theta[:count])
        self.moments[:, :count].masked_fill_(rows, 0)
        self.steps[:count].masked_fill_(is_reset, 0)

    def state_dict(self) -> dict[str, Any]:
        """All rows, with the moments and step counters of each."""
        return {"theta": self.theta, "moments": self.moments, "steps": self.steps}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the rows and their optimiser state from as many streams."""
        for name, value in state_dict.items():
            getattr(self, name).copy_(value)
        self._calls = int(self.steps.max())


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
