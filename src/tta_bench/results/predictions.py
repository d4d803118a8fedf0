"""The predictions of a cell, one bit per pixel and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from tta_bench.errors import UserError


@dataclass(frozen=True)
class Predictions:
    """Binary masks of the images of one target.

    Attributes:
        bits: uint8 ``[n, bytes]``, each image's mask packed.
        shape: ``(classes, H, W)`` of one mask.
    """

    bits: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def of(cls, masks: Sequence[np.ndarray]) -> Predictions:
        """Pack bool masks ``[classes, H, W]``."""
        return cls(np.stack([np.packbits(mask) for mask in masks]), masks[0].shape)

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """All images of several, in order; masks of one shape."""
        return cls(np.concatenate([part.bits for part in parts]), parts[0].shape)

    def mask(self, index: int) -> np.ndarray:
        """Bool ``[classes, H, W]`` of one image."""
        return np.unpackbits(self.bits[index], count=int(np.prod(self.shape))).reshape(self.shape).astype(bool)


def predictions_file(predictions: Mapping[str, Predictions]) -> bytes:
    """The content of ``predictions.npz``."""
    arrays: dict[str, np.ndarray] = {}
    for target, masks in predictions.items():
        arrays |= {f"{target}/bits": masks.bits, f"{target}/shape": np.array(masks.shape)}
    file = BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def read_predictions(path: Path, target: str) -> Predictions:
    """The predictions of one target.

    Raises:
        UserError: the file is gone or damaged, or has none of this target.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return Predictions(file[f"{target}/bits"], tuple(file[f"{target}/shape"].tolist()))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}): compute the cell again with force=true"
        ) from None
