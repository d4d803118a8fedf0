"""Decode every image and mask of a data set and report all faults."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tta_bench.cli._data import add_data as add_arguments
from tta_bench.cli._data import data_config
from tta_bench.errors import UserError
from tta_bench.runtime.names import literal

if TYPE_CHECKING:
    from rich.table import Table

    from tta_bench.data.domain import Domain
    from tta_bench.data.prepare import Prepared
    from tta_bench.schema import DataConfig

__all__ = ["add_arguments", "check", "run"]

log = logging.getLogger(__name__)


def run(parsed: argparse.Namespace) -> None:
    """Print what the sound domains are; the faults of the others are an error."""
    table, faults = check(*data_config(parsed))
    Console().print(table)
    if faults:
        raise UserError(faults)


def check(
    config: DataConfig, names: Sequence[str], cache: Path, *, progress: bool = True
) -> tuple[Table, tuple[str, ...]]:
    """Read whole domains and sum them up.

    Args:
        config: which images, read how.
        names: domains.
        cache: folder of the prepared images; the decoding serves later runs too.
        progress: show a bar while images are decoded, if standard error is a terminal.

    Returns:
        A table of the sound domains (number of images, smallest and largest stored size, mean area of each
        class in percent of the image) and the faults of the others, all of them. A class that is nowhere or
        everywhere in a domain gets a warning.

    Raises:
        UserError: ``data.root`` does not exist or the cache cannot be written.
    """
    from rich.table import Table

    from tta_bench.data.prepare import survey

    prepared, faults = survey(config, names, cache, progress=progress)
    table = Table(title=f"data={config.name}, read at {config.image_size} px")
    table.add_column("domain")
    for column in ("images", "stored size, px", *(f"{name}, % of area" for name in config.classes)):
        table.add_column(literal(column), justify="right")
    for name, each in prepared.items():
        areas = _areas(each.domain)
        shown = ("no masks" if math.isnan(area) else f"{area:.2f}" for area in areas)
        table.add_row(literal(name), str(len(each.domain)), _sizes(each), *shown)
        for label, area in zip(each.domain.classes, areas, strict=True):
            if area in (0, 100):
                log.warning(
                    "domain '%s': class '%s' covers %s of all %d masks, so its Dice means nothing: check "
                    "data.classes.%s=%s and the masks",
                    name,
                    label,
                    "no pixel" if area == 0 else "every pixel",
                    len(each.domain),
                    label,
                    list(each.domain.classes[label]),
                )
    return table, faults


def _areas(domain: Domain) -> list[float]:
    """Mean area of each class over a domain, percent of the image; NaN without masks."""
    import numpy as np

    if domain.masks is None:
        return [math.nan] * len(domain.classes)
    counts = np.sum([np.bincount(mask.ravel(), minlength=256) for mask in domain.masks], axis=0)
    return [100 * float(counts[list(values)].sum()) / float(counts.sum()) for values in domain.classes.values()]


def _sizes(each: Prepared) -> str:
    """The range of stored sizes, by area."""
    (low_height, low_width), (high_height, high_width) = (
        pick(each.sizes, key=lambda size: size[0] * size[1]) for pick in (min, max)
    )
    low, high = f"{low_width}x{low_height}", f"{high_width}x{high_height}"
    return low if low == high else f"{low} to {high}"
