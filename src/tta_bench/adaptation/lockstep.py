"""How many streams share one batch: a speed setting, see ``lockstep`` in ``conf/config.yaml``."""

from __future__ import annotations

import torch

from tta_bench.methods.base import Method
from tta_bench.runtime.numerics import placement
from tta_bench.schema import RunConfig


def lockstep_width(config: RunConfig, method: Method, device: torch.device) -> int:
    """How many streams share one batch: a GPU is filled by several, a CPU is busy with one."""
    if config.data.fit == "tile":  # the tiles of an image are side by side already
        return 1
    if config.lockstep != "auto":
        return config.lockstep
    adapts_convolutions = method.source_theta.numel() > method.network.source_theta.numel()
    if adapts_convolutions or not placement(device).side_by_side:
        return 1
    per_stream = 3 * 2**30 * (config.data.image_size / 512) ** 2  # bytes, generous for the ResUNet-34 at 512 px
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, int(free / per_stream))
