"""What is written of each image, behind the adaptation's back: masks, probabilities, overlays, a row of the table."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tta_bench.data.domain import class_channels
from tta_bench.metrics.dice import dice_score
from tta_bench.ops.geometry import Geometry
from tta_bench.ops.masks import Finish
from tta_bench.ops.painting import COLOURS, paint
from tta_bench.ops.probabilities import probabilities
from tta_bench.runtime.files import write_atomically
from tta_bench.schema import DataConfig
from tta_bench.serving.folder import OUT
from tta_bench.serving.images import ImageFile
from tta_bench.serving.masks import mask_values, mean_entropy, vertical_ratio

_WAITING = 4  # images whose logits wait to be written
_LONGER_SIDE = 1024  # pixels of an overlay
_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Outputs:
    """What is written of each image beside a mask and a row.

    Attributes:
        per_class: a mask of 0 and 255 for each class, in place of one of all.
        probabilities: of each class, as 16-bit PNG: 65535 is 1.
        overlay: the contours on the image.
        compare: the unadapted masks too.
        change: whether the row tells how far the unadapted prediction is from the adapted one.
    """

    per_class: bool = False
    probabilities: bool = False
    overlay: bool = False
    compare: bool = False
    change: bool = True


@dataclass(frozen=True)
class Prediction:
    """What the method made of an image.

    Attributes:
        logits: of the network's input, on the CPU, see :meth:`~tta_bench.ops.geometry.Geometry.restored`.
        unadapted: those of the source model as it is; None if nobody asks.
        height: of the image as stored, pixels.
        width: likewise.
        told: further columns of its row: the method's diagnostics and seconds.
    """

    logits: Tensor
    unadapted: Tensor | None
    height: int
    width: int
    told: Mapping[str, Any]


@dataclass(frozen=True)
class ImageWriter:
    """Writes the files of one image after another.

    Attributes:
        out: folder of the results.
        classes: name -> mask values, one channel of the logits each, behind that of the background of a softmax.
        finish: what makes masks of logits.
        geometry: between the image and the network's input.
        outputs: what to write.
        data: how an image is read again for its overlay.
    """

    out: Path
    classes: Mapping[str, tuple[int, ...]]
    finish: Finish
    geometry: Geometry
    outputs: Outputs
    data: DataConfig

    def write(self, image: ImageFile, prediction: Prediction) -> dict[str, Any]:
        """Write all files of an image, each whole or not at all.

        Returns:
            Columns of its row of ``predictions.csv``.
        """
        logits, after = self._write_masks("masks", image, prediction.logits, prediction)
        row = {
            "height": prediction.height,
            "width": prediction.width,
            **self._shape("", after),
            "entropy": mean_entropy(prediction.logits, self.finish.activation),
        }
        before = None
        if prediction.unadapted is not None:
            folder = "unadapted" if self.outputs.compare else None
            _, before = self._write_masks(folder, image, prediction.unadapted, prediction)
            agreement = dice_score(after, before).tolist()
            row |= {f"unadapted_dice_{name}": dice for name, dice in zip(self.classes, agreement, strict=True)}
            row["unadapted_dice"] = sum(agreement) / len(agreement)
            if self.outputs.compare:
                row |= self._shape("unadapted_", before)
        if self.outputs.probabilities:
            probable = probabilities(logits, self.finish.activation)
            levels = probable.mul(65535).round().to(torch.int32).numpy().astype(np.uint16)
            for name, level in zip(self.classes, levels[-len(self.classes) :], strict=True):  # without the background
                self._save(f"probabilities/{file_name(name)}/{image.stem}.png", Image.fromarray(level))
        if self.outputs.overlay:
            shown = image.record(self.data).levels().round().astype(np.uint8)
            drawn = overlay(shown, after, before if self.outputs.compare else None)
            self._save(f"overlays/{image.stem}.jpg", drawn)
        return {**row, **prediction.told}

    @property
    def folders(self) -> list[str]:
        """Those that masks are written to, below :attr:`out`."""
        parts = ["masks", *["unadapted"] * self.outputs.compare]
        return (
            [f"{part}/{file_name(name)}" for part in parts for name in self.classes]
            if self.outputs.per_class
            else parts
        )

    def _shape(self, prefix: str, found: Tensor) -> dict[str, float | None]:
        """The area of each class in parts of the image, and the cup-to-disc ratio where there are both."""
        areas = found.flatten(1).double().mean(1).tolist()
        told = {f"{prefix}area_{name}": area for name, area in zip(self.classes, areas, strict=True)}
        if {"disc", "cup"} <= self.classes.keys():
            by_name = dict(zip(self.classes, found, strict=True))
            return {**told, f"{prefix}vertical_cdr": vertical_ratio(by_name["disc"], by_name["cup"])}
        return told

    def _write_masks(
        self, folder: str | None, image: ImageFile, logits: Tensor, size: Prediction
    ) -> tuple[Tensor, Tensor]:
        """Logits and bool masks ``[classes, height, width]`` at the image's own size, the masks as they are written."""
        logits = self.geometry.restored(logits, size.height, size.width, "stored")
        found = self.finish(logits)
        pictures = {f"{file_name(name)}/": 255 * mask for name, mask in zip(self.classes, found.byte(), strict=True)}
        if not self.outputs.per_class:
            values = mask_values(found, logits, self.finish.threshold, self.classes)
            found, pictures = class_channels(values.numpy(), self.classes), {"": values}
        for name, picture in pictures.items() if folder else ():
            self._save(f"{folder}/{name}{image.stem}.png", Image.fromarray(picture.numpy()))
        return logits, found

    def _save(self, name: str, picture: Image.Image) -> None:
        file = io.BytesIO()
        if name.endswith(".jpg"):
            picture.save(file, "JPEG", quality=88)
        else:
            picture.save(file, "PNG", compress_level=3)
        write_atomically(self.out / name, file.getvalue(), OUT)


def file_name(label: str) -> str:
    """A class's name as that of a folder, different for different names."""
    return re.sub(r'[%/\\:*?"<>|\x00-\x1f]|^\.', lambda found: f"%{ord(found[0]):02X}", label)


def overlay(image: np.ndarray, after: Tensor, before: Tensor | None) -> Image.Image:
    """The contours of all classes on an image, and thin white ones of the masks before adaptation.

    Args:
        image: uint8 ``[height, width, 3]``; scaled down where it is larger than a screen.
        after: bool ``[classes, height, width]``.
        before: likewise; None: not drawn.
    """
    tile = Image.fromarray(image)
    tile.thumbnail((_LONGER_SIDE, _LONGER_SIDE), Image.Resampling.BICUBIC)
    contour = max(1.5, max(tile.size) / 250)
    for mask in () if before is None else before.numpy():
        paint(tile, mask, _WHITE, contour=contour / 2, fill=0)
    for k, mask in enumerate(after.numpy()):
        paint(tile, mask, COLOURS[k % len(COLOURS)], contour=contour, fill=0)
    return tile


class WriteBehind:
    """Runs tasks one after another on a thread of its own; few of them wait at a time.

    An exception of a task is raised by the next call.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def do(self, task: Callable[[], None]) -> None:
        """Queue a task, and wait while too many do."""
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(task))

    def drain(self) -> None:
        """Wait until all tasks are done."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for what was queued; after an exception for the present task alone."""
        try:
            if error is None:
                self.drain()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
