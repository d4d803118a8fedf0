"""How many streams share one batch: a speed setting, see ``lockstep`` in ``conf/config.yaml``."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from tta_bench.adaptation.counters import Counters
from tta_bench.data.domain import Domain
from tta_bench.data.streams import LockstepDataset, LockstepGroups, StreamImages
from tta_bench.methods.base import Method
from tta_bench.runtime.memory import bytes_taken, free_memory, is_out_of_memory, release_memory
from tta_bench.runtime.numerics import numerics, placement
from tta_bench.schema import RunConfig

log = logging.getLogger(__name__)

SHARE = 0.9
"""Of the free memory; the rest is lost between blocks of different sizes."""


_TRIED = 2


def lockstep_width(
    config: RunConfig, method: Method, domains: Mapping[str, Domain], groups: LockstepGroups, members: int = 1
) -> int:
    """How many streams share one batch: a GPU is filled by many, a CPU is busy with a few small images or one large.

    Args:
        config: of the run.
        method: on its device; what state it has is lost where a step is tried.
        domains: the images.
        groups: the streams.
        members: cells whose streams these are; a CPU takes one of each at least.
    """
    if config.data.fit == "tile":  # the tiles of an image are side by side already
        return 1
    if config.lockstep != "auto":
        return config.lockstep
    device = method.source_theta.device
    adapts_convolutions = method.source_theta.numel() > method.network.source_theta.numel()
    if adapts_convolutions or len(groups.streams) == 1:  # those that adapt convolutions take turns within a step
        return 1
    width = placement(device).streams_per_batch(groups.batch * config.data.image_size**2)
    if width is not None:
        return max(width, members)
    try:
        each = bytes_of_a_stream(method, domains, groups)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        each = None
    if each is None:  # the exception, which holds what was in memory, is gone here
        release_memory(device)
        return 1
    free = free_memory(device, config.launch.cells_per_device)
    width = max(1, min(int(SHARE * free / each), len(groups.streams)))
    log.info("%d of %d streams side by side: each takes %.2f GiB", width, len(groups.streams), each / 2**30)
    return width


def bytes_of_a_stream(method: Method, domains: Mapping[str, Domain], groups: LockstepGroups) -> int:
    """Memory that each of several streams takes, state and step, measured by a step on the first images of two.

    Of one alone nothing is copied that several lay side by side. What streams share is counted in, so that more take at
    most so many times as much.
    """
    counters, preprocessing = Counters.of(method), method.network.preprocessing
    device, (longest, *_) = method.source_theta.device, groups.streams
    streams = [longest[: groups.batch]] * _TRIED
    first = LockstepDataset(domains, streams, seeds=[0], batch=groups.batch, preprocessing=preprocessing)[0]

    def step() -> None:
        method.start(_TRIED)
        method.before_stream([StreamImages(domains, stream, preprocessing) for stream in streams])
        method.step(first.images.to(device), first.keys)

    try:
        with numerics(device, method.network.precision):
            taken = bytes_taken(step, device)
    finally:
        counters.give(method)
    return max(1, taken // _TRIED)
