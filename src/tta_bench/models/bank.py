"""The bank of a source model: what of its training images may be at hand at test time, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tta_bench.ops.similarity import thumbnails
from tta_bench.ops.spectrum import amplitudes, window

BankKind = Literal["amplitudes_only", "images"]
"""What is kept: low-frequency amplitudes alone, from which no image can be made, or small grey images, too."""


@dataclass(frozen=True)
class Bank:
    """Of ``N`` source images.

    Attributes:
        radius: of the window, see :func:`tta_bench.ops.spectrum.window`.
        amplitudes: ``[N, C, frequencies]``, see :func:`tta_bench.ops.spectrum.amplitudes`.
        thumbnails: see :func:`tta_bench.ops.similarity.thumbnails`; None where amplitudes alone are kept.
        origin: digest of all that it was made of, where that is known.
    """

    radius: float
    amplitudes: Tensor
    thumbnails: Tensor | None
    origin: str = ""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.amplitudes)

    def within(self, radius: float) -> Tensor:
        """The amplitudes in a window that is no larger than the bank's."""
        places = {frequency: place for place, frequency in enumerate(window(self.radius))}
        return self.amplitudes[..., [places[frequency] for frequency in window(radius)]]


def make_bank(images: Iterable[Tensor], radius: float, kind: BankKind) -> Bank:
    """The bank of images ``[C, H, W]`` in [0, 1], each read once; there is at least one."""
    low, small = [], []
    for image in images:
        low.append(amplitudes(image.float(), radius))
        if kind == "images":
            small.append(thumbnails(image[None].float())[0])
    return Bank(radius, torch.stack(low), torch.stack(small) if small else None)
