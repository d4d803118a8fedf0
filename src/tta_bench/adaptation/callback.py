"""The one Lightning callback that drives any method, in the trainer and on the module of anybody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import Dataset

from tta_bench.errors import UserError
from tta_bench.methods.base import Method, StepResult
from tta_bench.ops.draws import ImageKey

Unpack = Callable[[Any, int, int], tuple[Tensor, Sequence[ImageKey]]]
"""``(batch, batch_idx, dataloader_idx) -> images [A, 3, H, W], keys [A]``."""


def images_first(batch: Any, batch_idx: int, dataloader_idx: int) -> tuple[Tensor, Sequence[ImageKey]]:
    """A batch that is its images, or a sequence whose first item is; keys by number, with seed 0."""
    images = batch if isinstance(batch, Tensor) else batch[0]
    return images, [ImageKey(0, f"{dataloader_idx}", f"{batch_idx}.{row}") for row in range(len(images))]


class TTACallback(pl.Callback):
    """Adapts to every test batch before the ``test_step`` of the module, which finds the logits in :attr:`result`.

    The state starts afresh with the test run and with each further test dataloader. The trainer needs
    ``inference_mode=False`` and one device, that of the method's network. ::

        tta = TTACallback(method)
        pl.Trainer(callbacks=[tta], inference_mode=False, devices=1).test(module, DataLoader(images, batch_size=1))

    Args:
        method: with a network of its own; the module under test is not touched.
        streams: how many streams run side by side: image ``s`` of a batch belongs to stream ``s``.
        unpack: takes the images and what identifies them out of a batch; labels it leaves there never reach the method.
        ahead: of each stream all its images, for a method that sees them first.
    """

    def __init__(
        self,
        method: Method,
        streams: int = 1,
        unpack: Unpack = images_first,
        ahead: Sequence[Dataset[Tensor]] | None = None,
    ) -> None:
        self.method = method
        self.streams = streams
        self.unpack = unpack
        self.ahead = ahead
        self.result: StepResult | None = None
        """Of the present batch: logits, diagnostics and seconds."""

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fresh state for the streams of this run."""
        self.method.start(self.streams)
        if self.ahead is not None:
            self.method.before_stream(self.ahead)

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Adapt and predict.

        Raises:
            UserError: more images than streams.
        """
        if batch_idx == 0 and dataloader_idx > 0:
            self.on_test_start(trainer, pl_module)
        images, keys = self.unpack(batch, batch_idx, dataloader_idx)
        if len(images) > self.streams:
            raise UserError(
                f"a batch has {len(images)} images and TTACallback {self.streams} "
                f"stream{'s' * (self.streams != 1)}: give the test dataloader batch_size={self.streams}, because each "
                "image of a batch belongs to a stream of its own"
            )
        self.result = self.method.step(images, keys)
