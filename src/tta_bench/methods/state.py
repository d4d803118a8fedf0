"""The adapted parameters of all streams and their optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

OptimizerName = Literal["adam", "sgd"]
MakeOptimizer = Callable[[list[dict[str, Any]]], Optimizer]


def make_optimizer(
    name: OptimizerName, momentum: float = 0.0, betas: tuple[float, float] = (0.9, 0.999)
) -> MakeOptimizer:
    """A constructor of a torch optimiser over parameter groups; the learning rate is set at every step."""
    if name == "adam":
        return lambda groups: Adam(groups, lr=0.0, betas=betas)
    return lambda groups: SGD(groups, lr=0.0, momentum=momentum)


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

    @torch.no_grad()
    def reset_row(self, row: int, source: Tensor) -> None:
        """Put one stream back to where it started, moments included."""
        self.theta[row] = source
        self.optimizer.state.pop(self._rows[row], None)
