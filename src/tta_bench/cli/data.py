"""What ``tta-bench data check|prepare|preview`` do; the argument parser lives elsewhere."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from tta_bench.data.domain import Domain
from tta_bench.data.prepare import Prepared, prepare, survey
from tta_bench.data.readers import open_reader
from tta_bench.errors import UserError
from tta_bench.report.gallery import draw_gallery
from tta_bench.runtime.names import literal
from tta_bench.schema import DataConfig

log = logging.getLogger(__name__)


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
    prepared, faults = survey(config, names, cache, progress=progress)
    table = Table(title=f"data={config.name}, read at {config.image_size} px")
    table.add_column("domain")
    for column in ("images", "stored size, px", *(f"{name}, % of area" for name in config.classes)):
        table.add_column(literal(column), justify="right")
    for name, each in prepared.items():
        areas = _areas(each.domain)
        table.add_row(
            literal(name),
            str(len(each.domain)),
            _sizes(each),
            *(f"{area:.2f}" if area == area else "no masks" for area in areas),
        )
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


def prepare_command(config: DataConfig, names: Sequence[str], cache: Path, *, progress: bool = True) -> Table:
    """Fill the cache.

    Returns:
        A table of the domains: number of images and fingerprint.

    Raises:
        UserError: as :func:`tta_bench.data.prepare.prepare`.
    """
    domains = prepare(config, names, cache, progress=progress)
    table = Table(title=literal(f"prepared in {cache}"))
    table.add_column("domain")
    table.add_column("images", justify="right")
    table.add_column("fingerprint")
    for name, domain in domains.items():
        table.add_row(literal(name), str(len(domain)), domain.fingerprint)
    return table


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
    reader = open_reader(config)
    rows = []
    faults: list[str] = []
    for name in dict.fromkeys(names):
        try:
            records = reader.records(name)[: config.limit]
            shown = np.linspace(0, len(records) - 1, min(per_domain, len(records))).round().astype(int)
            samples = [records[index].read(config.image_size) for index in shown]
            rows.append((name, [(sample.image, sample.mask) for sample in samples]))
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    try:
        draw_gallery(rows, config.classes, path)
    except (OSError, ValueError) as error:
        raise UserError(f"the preview cannot be drawn into {path}: {error}") from error


def _areas(domain: Domain) -> list[float]:
    """Mean area of each class over a domain, percent of the image; NaN without masks."""
    if domain.masks is None:
        return [math.nan] * len(domain.classes)
    counts = np.sum([np.bincount(mask.ravel(), minlength=256) for mask in domain.masks], axis=0)
    return [100 * float(counts[list(values)].sum()) / domain.masks.size for values in domain.classes.values()]


def _sizes(each: Prepared) -> str:
    """The range of stored sizes, by area."""
    (low_height, low_width), (high_height, high_width) = (
        pick(each.sizes, key=lambda size: size[0] * size[1]) for pick in (min, max)
    )
    low, high = f"{low_width}x{low_height}", f"{high_width}x{high_height}"
    return low if low == high else f"{low} to {high}"
