"""Pretext tasks by name, as the networks see them: what an auxiliary branch consists of and learns.

The tasks stand in ``objectives/``, one file each, with the objective that adapts by them; the registry finds them there
on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tta_bench.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class PretextTask:
    """What an auxiliary branch learns.

    Attributes:
        head: builds the branch, from the number of channels of the bottleneck, its input ``[N, C, H/32, W/32]``.
        training_loss: ``training_loss(branch, images [N, 3, H, W] in [0, 1])``, a scalar; ``branch(images)`` is the
            output of the branch for images. It draws from torch's global random state.
    """

    head: Callable[[int], nn.Module]
    training_loss: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


PRETEXT_TASKS: Registry[PretextTask] = Registry("pretext task", "tta_bench.objectives")
