"""Images in, logits out: a method along its streams under a Lightning trainer, without labels and without files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from tta_bench.adaptation.callback import TTACallback
from tta_bench.adaptation.counters import Counters
from tta_bench.data.domain import Domain
from tta_bench.data.streams import Ahead, ImageBatch, LockstepDataset, LockstepGroups, StreamImages
from tta_bench.methods.base import Method, MethodOptions
from tta_bench.methods.step_result import StepResult
from tta_bench.runtime.lightning import one_device_trainer, quiet_lightning
from tta_bench.runtime.memory import is_out_of_memory, release_memory
from tta_bench.runtime.numerics import is_gpu, numerics
from tta_bench.runtime.threads import computing_with
from tta_bench.runtime.transfer import sent

log = logging.getLogger(__name__)


class AdaptationModule(pl.LightningModule):
    """Moves images to the device, and hands what the method made of them to whoever looks on.

    Args:
        callback: what drives the method.
    """

    def __init__(self, callback: TTACallback) -> None:
        super().__init__()
        self.callback = callback
        self.network: nn.Module = nn.Identity()  # in whose place the callback puts the method

    def transfer_batch_to_device(self, batch: ImageBatch, device: torch.device, dataloader_idx: int) -> ImageBatch:
        """Lightning hook before every callback."""
        return replace(batch, images=sent(batch.images, device))

    def test_step(self, batch: ImageBatch, batch_idx: int) -> StepResult:  # type: ignore[override]
        """The ``outputs`` of ``on_test_batch_end``."""
        self.network(batch.images, batch.keys)
        assert self.callback.result is not None
        return self.callback.result


def adapt_streams(
    method: Method,
    domains: Mapping[str, Domain],
    groups: LockstepGroups,
    *,
    seeds: Sequence[int],
    options: Sequence[MethodOptions] = (),
    first: int = 0,
    observers: Sequence[pl.Callback] = (),
) -> None:
    """Run ``method`` along every stream, the streams of one group side by side.

    A group for which memory does not suffice begins again with half as many streams.

    Args:
        method: with its network on the device to use.
        domains: the prepared targets.
        groups: the streams.
        seeds: of the method's random draws; of each cell, where several share a batch.
        options: of each of these cells; none: those of the method are those of all streams.
        first: how many images the streams of the first group are past.
        observers: callbacks that look on. ``on_test_batch_start`` comes before the update, ``on_test_batch_end`` has
            the :class:`~tta_bench.methods.base.StepResult` as ``outputs`` and the
            :class:`~tta_bench.data.streams.ImageBatch` as ``batch``, ``on_test_epoch_start`` finds the method started,
            ``on_exception`` forgets what came since ``setup``.
    """
    device, preprocessing = method.network.source_theta.device, method.network.preprocessing
    # Beside a GPU the host reads, draws and scores in several threads, each of which is one.
    threads = computing_with(1) if is_gpu(device) else nullcontext()
    with quiet_lightning(), numerics(device, method.network.precision), threads:
        for group in groups:
            counters = Counters.of(method)
            if options:
                method.share([options[stream[0].member] for stream in group])
            ahead = [StreamImages(domains, stream, preprocessing) for stream in group]
            callback = TTACallback(method, streams=len(group), ahead=ahead)
            images = LockstepDataset(domains, group, seeds, first, groups.batch, preprocessing)
            # A CPU has its threads in the method, and reads and draws for an image in a hundredth of a step.
            loader = Ahead(images) if is_gpu(device) else DataLoader(images, batch_size=None)
            trainer = one_device_trainer(device, [*observers, callback], inference_mode=False)
            first = 0
            test = partial(trainer.test, AdaptationModule(callback), loader, verbose=False)
            if not _fits(test, len(group)):
                counters.give(method)
                groups.halve()
                log.warning("%d streams side by side do not fit into memory: %d begin again", len(group), groups.width)
                if method.network.graphs is not None:
                    method.network.graphs.forget()  # of streams that there are not any more
                release_memory(device)


def _fits(test: Callable[[], Any], streams: int) -> bool:
    """Whether memory suffices for several streams; every other error goes on its way, as that of a single stream.

    The exception, which holds what was in memory, is gone on return.
    """
    try:
        test()
    except Exception as error:
        if streams == 1 or not is_out_of_memory(error):
            raise
        return False
    return True
