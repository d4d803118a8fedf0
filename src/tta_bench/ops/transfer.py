"""Scores of learning in stages, from a matrix of what every model can do.

``matrix[i, j]`` is the score on task ``j`` of what there is after stage ``i``, for as many tasks as stages.
"""

from __future__ import annotations

from torch import Tensor


def backward_transfer(matrix: Tensor) -> float:
    """How much better the earlier tasks are in the end than right after their own stage; forgetting is negative.

    >>> backward_transfer(torch.tensor([[80.0, 20.0], [70.0, 90.0]]))
    -10.0
    """
    return float((matrix[-1] - matrix.diagonal())[:-1].mean())


def forward_transfer(matrix: Tensor) -> float:
    """How much the stage of a task adds to what the stages before it can already do on that task.

    >>> forward_transfer(torch.tensor([[80.0, 20.0], [70.0, 90.0]]))
    70.0
    """
    return float((matrix.diagonal()[1:] - matrix.diagonal(1)).mean())
