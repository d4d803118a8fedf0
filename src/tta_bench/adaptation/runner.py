"""Images in, logits out: a method along its streams under a Lightning trainer, without labels and without files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from tta_bench.adaptation.callback import TTACallback
from tta_bench.data.domain import Domain
from tta_bench.data.streams import Ahead, ImageBatch, LockstepDataset, Stream, StreamImages
from tta_bench.methods.base import Method, StepResult
from tta_bench.runtime.lightning import one_device_trainer, quiet_lightning
from tta_bench.runtime.numerics import is_gpu, numerics


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
        return replace(batch, images=batch.images.to(device, non_blocking=True))

    def test_step(self, batch: ImageBatch, batch_idx: int) -> StepResult:  # type: ignore[override]
        """The ``outputs`` of ``on_test_batch_end``."""
        self.network(batch.images, batch.keys)
        assert self.callback.result is not None
        return self.callback.result


def adapt_streams(
    method: Method,
    domains: Mapping[str, Domain],
    groups: Sequence[Sequence[Stream]],
    *,
    seed: int,
    batch: int = 1,
    begin: tuple[int, int] = (0, 0),
    observers: Sequence[pl.Callback] = (),
) -> None:
    """Run ``method`` along every stream, the streams of one group side by side.

    Args:
        method: with its network on the device to use.
        domains: the prepared targets.
        groups: streams, longest first within a group.
        seed: of the method's random draws.
        batch: images of a stream at a time.
        begin: number of the group to begin with, and how many images each of its streams is past.
        observers: callbacks that look on. ``on_test_batch_start`` comes before the update, ``on_test_batch_end`` has
            the :class:`~tta_bench.methods.base.StepResult` as ``outputs`` and the
            :class:`~tta_bench.data.streams.ImageBatch` as ``batch``, ``on_test_epoch_start`` finds the method started.
    """
    first_group, first = begin
    device, preprocessing = method.network.source_theta.device, method.network.preprocessing
    with quiet_lightning(), numerics(device, method.network.precision):
        for group in groups[first_group:]:
            ahead = [StreamImages(domains, stream, preprocessing) for stream in group]
            callback = TTACallback(method, streams=len(group), ahead=ahead)
            images = LockstepDataset(domains, group, seed, first, batch, preprocessing)
            # A CPU has its threads in the method, and reads an image in a hundredth of a step.
            loader = Ahead(images, pinned=True) if is_gpu(device) else DataLoader(images, batch_size=None)
            trainer = one_device_trainer(device, [*observers, callback], inference_mode=False)
            trainer.test(AdaptationModule(callback), loader, verbose=False)
            first = 0
