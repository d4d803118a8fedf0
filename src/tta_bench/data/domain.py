"""A domain: the images of one centre with their masks, decoded and resized once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.ops.preprocessing import PAPER, Preprocessing


@dataclass(frozen=True)
class Domain:
    """The prepared images of one centre.

    Attributes:
        name: the domain's name, as in ``source=`` and ``target=``.
        image_names: one identifier per image, in stream order.
        images: ``[n, size, size, 3]``, RGB in grey levels of 0 to 255; usually memory-mapped. uint8, or float32 where
            any image has levels that are no whole numbers.
        masks: uint8 ``[n, size, size]``, the mask values of the files (``classes`` gives them meaning); None without.
        classes: class name -> mask values that belong to it; classes may nest (disc and cup).
        fingerprint: hash of all of the above, so that results can tell when the data changed.
        cases: of each image the name of its volume and its number there, from 0; None where images are no slices.
        spacings: of each image as stored, millimetres from slice to slice, row to row and column to column; None where
            files have none.
    """

    name: str
    image_names: tuple[str, ...]
    images: np.ndarray
    masks: np.ndarray | None
    classes: Mapping[str, tuple[int, ...]]
    fingerprint: str
    cases: tuple[tuple[str, int], ...] | None = None
    spacings: tuple[tuple[float, float, float] | None, ...] | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.image_names)

    def image(self, index: int, preprocessing: Preprocessing = PAPER) -> Tensor:
        """What a source model of this preprocessing is shown: float32 ``[channels, size, size]`` in [0, 1]."""
        return preprocessing.unit_range(torch.from_numpy(np.array(self.images[index])).permute(2, 0, 1).float())

    def picture(self, index: int) -> np.ndarray:
        """An image to look at: uint8 ``[size, size, 3]``."""
        return np.array(self.images[index]).round().astype(np.uint8)

    def mask(self, index: int) -> np.ndarray:
        """The mask values of an image: uint8 ``[size, size]``.

        Raises:
            UserError: the domain has no masks.
        """
        if self.masks is None:
            raise UserError(
                f"domain '{self.name}' has no masks, and training, scores and pictures of annotations need them: "
                "add them, or choose another domain"
            )
        return np.array(self.masks[index])

    def label(self, index: int) -> Tensor:
        """The ground truth: bool ``[classes, size, size]``, one channel per class.

        Raises:
            UserError: the domain has no masks.
        """
        return class_channels(torch.from_numpy(self.mask(index)), self.classes)


def class_channels(mask: Tensor, classes: Mapping[str, tuple[int, ...]]) -> Tensor:
    """Bool ``[..., classes, H, W]`` from integer mask values ``[..., H, W]``."""
    return torch.stack([torch.isin(mask, torch.tensor(values)) for values in classes.values()], dim=-3)
