"""Cells that share a batch: which may, and what each of them has of its own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch

from tta_bench.methods.base import METHODS, MethodOptions
from tta_bench.methods.options import method_options
from tta_bench.records.store import CellFolder
from tta_bench.runtime.numerics import placement
from tta_bench.schema import RunConfig

MOST_CELLS = 8
"""That share a batch: with a stream per target they fill a GPU, and what all of them predict fits into memory."""


@dataclass(frozen=True)
class Member:
    """A cell as one of those that share a batch.

    Attributes:
        config: of its run, with its targets.
        seed: of its random draws.
        folder: of its results.
    """

    config: RunConfig
    seed: int
    folder: CellFolder

    @property
    def options(self) -> MethodOptions:
        """Of its method."""
        return method_options(self.config.method)


def shared_by(config: RunConfig) -> str | None:
    """What the cells of two runs must have in common to share a batch; None for a run whose cells share none.

    They may differ in their seeds, and in options that their method takes of every stream. A class that has inherited
    its card may read these in another way.
    """
    kind = METHODS.get(config.method["name"])
    names = kind.card.per_stream if "card" in vars(kind) else ()
    several_models = config.adapt is not None or config.route is not None or config.stages is not None
    alone = config.tune or config.force or config.data.fit == "tile" or config.launch.pack is False
    if not names or several_models or alone:
        return None
    content = config.model_dump(mode="json", exclude={"seed", "method"})
    options = {key: value for key, value in asdict(method_options(config.method)).items() if key not in names}
    return json.dumps([content, config.method["name"], options], sort_keys=True, default=str)


def shares(config: RunConfig, device: torch.device) -> bool:
    """Whether the cells of a run share batches on this device: where that is asked for, or is faster."""
    wanted = config.launch.pack is True or (placement(device).side_by_side and config.lockstep != 1)
    return wanted and shared_by(config) is not None
