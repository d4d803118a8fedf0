"""A picture per target for dashboards: its median image, the truth and the prediction."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_bench.data.domain import Domain
from tta_bench.ops.painting import COLOURS, fitted, paint
from tta_bench.records.predictions import read_predictions
from tta_bench.records.store import CellFolder
from tta_bench.runtime.files import write_atomically

TILE = 256
"""Pixels of a side."""


def write_panels(folder: CellFolder, domains: Mapping[str, Domain], rows: Sequence[Mapping[str, str]]) -> None:
    """Write ``panels/TARGET.png`` beside the results: image, truth and prediction of the image of median Dice.

    Args:
        folder: of a finished cell, with its predictions.
        domains: the prepared targets.
        rows: of ``per_image.csv``.
    """
    for target in dict.fromkeys(row["target"] for row in rows):
        domain = domains[target]
        own = [row for row in rows if row["target"] == target]
        position = sorted(range(len(own)), key=lambda k: float(own[k]["dice"] or "nan"))[len(own) // 2]
        index, shapes = int(own[position]["index"]), domain.prediction_shapes
        truth = domain.truth(index).numpy()
        stored = read_predictions(folder.predictions, target, [shapes[int(row["index"])] for row in own])
        picture = _png(domain.picture(index), truth, stored.mask(position))
        write_atomically(folder.path / "panels" / f"{target}.png", picture)


def _png(image: NDArray[np.uint8], *masks: NDArray[np.bool_]) -> bytes:
    """The plain image, and one tile per mask beside it."""
    plain = fitted(image, TILE)
    canvas = Image.new("RGB", (plain.width * (1 + len(masks)), plain.height))
    canvas.paste(plain, (0, 0))
    for column, mask in enumerate(masks, 1):
        tile = plain.copy()
        for number, of_class in enumerate(mask):
            paint(tile, of_class, COLOURS[number % len(COLOURS)], contour=1.5, fill=0.28)
        canvas.paste(tile, (column * plain.width, 0))
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()
