"""Masks of volumes: written slice by slice while images are predicted, and as volumes at the end."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tta_bench.data.decoders.base import AXIS, decoder_of, suffix_of
from tta_bench.serving.images import ImageFile


def write_volumes(out: Path, images: Sequence[ImageFile], folders: Sequence[str], axis: int | None) -> None:
    """Make the masks of each volume one file, in its format, place and orientation.

    Masks stay slices, a PNG file each, where the format is not written, or a slice could not be predicted.

    Args:
        out: folder of the results.
        images: that were predicted.
        folders: of masks, below it.
        axis: that slices are along.
    """
    cases: dict[str, list[ImageFile]] = {}
    for image in images:
        if image.case is not None:
            cases.setdefault(image.case, []).append(image)
    for case, slices in cases.items():
        volume = slices[0].path
        for folder in folders:
            pictures = [out / folder / f"{image.stem}.png" for image in sorted(slices, key=_number)]
            if not all(map(Path.is_file, pictures)):
                continue
            mask = np.stack([np.asarray(Image.open(picture)) for picture in pictures])
            target = out / folder / f"{case}{suffix_of(volume.name)}"
            try:
                decoder_of(volume).write_mask(target, volume, mask, AXIS if axis is None else axis)
            except NotImplementedError:
                continue
            shutil.rmtree(out / folder / case)


def _number(image: ImageFile) -> int:
    assert image.slice is not None  # of a volume
    return image.slice
