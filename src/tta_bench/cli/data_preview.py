"""Draw a gallery of every domain of a data set, with contours."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tta_bench.cli._data import add_data, data_config
from tta_bench.errors import UserError

if TYPE_CHECKING:
    from tta_bench.schema import DataConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data set, the picture and how much is in it."""
    add_data(parser)
    parser.add_argument(
        "--out", type=Path, help="picture to write (.png, .jpg); default: RESULTS_ROOT/preview/DATA.jpg"
    )
    parser.add_argument("--per-domain", type=_positive, default=6, help="images of each domain")


def run(parsed: argparse.Namespace) -> None:
    """Write the picture."""
    config, names, cache = data_config(parsed)
    path = parsed.out or cache.parent / "preview" / f"{config.name}.jpg"
    preview(config, names, path, per_domain=parsed.per_domain)
    print(f"wrote {path}")


def preview(config: DataConfig, names: Sequence[str], path: Path, *, per_domain: int = 6) -> None:
    """Draw some images of each domain, half of them with the contours of their classes.

    Args:
        config: which images, read how.
        names: domains, one row each.
        path: picture to write, ``.png`` or ``.jpg``.
        per_domain: images per row, spread evenly over the domain.

    Raises:
        UserError: the shown images have faults, or the picture cannot be drawn or written.
    """
    import numpy as np

    from tta_bench.data.decoding import fitted
    from tta_bench.data.readers.base import open_reader
    from tta_bench.ops.geometry import Geometry
    from tta_bench.report.gallery import draw_gallery

    reader = open_reader(config)
    rows = []
    faults: list[str] = []
    for name in dict.fromkeys(names):
        try:
            records = reader.records(name)[: config.limit]
            shown = np.linspace(0, len(records) - 1, min(per_domain, len(records))).round().astype(int)
            geometry = Geometry(config.image_size, config.fit)
            samples = [fitted(records[index].read(geometry.side), geometry) for index in shown]
            # Without a mask there is no contour to draw.
            masks = [np.zeros(each.image.shape[:2], np.uint8) if each.mask is None else each.mask for each in samples]
            pictures = [each.image.round().astype(np.uint8) for each in samples]
            rows.append((name, list(zip(pictures, masks, strict=True))))
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    try:
        draw_gallery(rows, config.classes, path)
    except (OSError, ValueError) as error:
        raise UserError(f"the preview cannot be drawn into {path}: {error}") from error


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of images: give 1 or more")
    return int(text)
