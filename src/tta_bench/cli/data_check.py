"""Decode every image and mask of a data set and report all faults; of a release (SET RAW, or RAW), what fits it."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tta_bench.cli._data import add_all, add_data, data_config, folding, release_sentence
from tta_bench.errors import UserError
from tta_bench.runtime.names import literal

if TYPE_CHECKING:
    from rich.table import Table

    from tta_bench.data.domain import Domain
    from tta_bench.data.prepare import Prepared
    from tta_bench.schema import DataConfig

__all__ = ["add_arguments", "check", "run"]

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data set or release, and how much is told."""
    add_data(parser)
    add_all(parser)


def run(parsed: argparse.Namespace) -> None:
    """Print what the sound domains are; the faults of the others are an error."""
    with folding(parsed):
        if parsed.overrides and "=" not in parsed.overrides[0]:
            print(_release(*([w for w in parsed.overrides if ("=" in w) is change] for change in (False, True))))
            return
        table, faults = check(*data_config(parsed))
        Console().print(table)
        if faults:
            raise UserError(faults)


def _release(words: Sequence[str], changes: Sequence[str]) -> str:
    """What a recipe finds in a release, or which recipe fits a folder.

    Raises:
        UserError: the recipe does not fit, or none does.
    """
    from tta_bench.data.recipes.pairing import counts
    from tta_bench.data.recipes.prepare import examine
    from tta_bench.data.recipes.recipe import load_recipe

    root = Path(words[-1]).expanduser()
    if len(words) == 1:
        if changes:
            raise UserError(
                f"'{changes[0]}' is of a recipe or a data set: data check SET {words[0]} {changes[0]} tries a recipe, "
                f"data check data=folder data.root={words[0]} checks a data set"
            )
        fits, sentence = release_sentence(root)
        if not fits:
            raise UserError(sentence)
        return sentence
    if len(words) > 2:
        raise UserError("data check takes data=… for a data set, SET RAW for a release, or a folder alone")
    pairing, _ = examine(load_recipe(words[0], changes), root)
    return f"{words[0]} fits {root}: {counts(pairing)}; run tta-bench data prepare {words[0]} {root} OUT"


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
        A table of the domains (number of images, smallest and largest stored size, mean area of each class in percent
        of the image; of those with faults how many and the first) and all faults. A class that is nowhere or
        everywhere in a domain gets a warning, and so do cut regions, cups outside discs, and images of two domains.

    Raises:
        UserError: ``data.root`` does not exist or the cache cannot be written.
    """
    from rich.table import Table

    from tta_bench.data.examination import duplicates, suspicions
    from tta_bench.data.prepare import survey
    from tta_bench.data.readers.base import open_reader

    prepared, faults = survey(config, names, cache, progress=progress)
    reader = open_reader(config)
    table = Table(title=f"data={config.name}, read at {config.image_size} px")
    table.add_column("domain")
    for column in ("images", "stored size, px", *(f"{name}, % of area" for name in config.classes)):
        table.add_column(literal(column), justify="right")
    if faults:
        table.add_column("what is wrong", overflow="fold")
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
        if each.domain.masks is None and (keys := reader.mask_hint(name)):
            log.warning("domain '%s' has no masks, but files that fit %s", name, keys)
        for sentence in suspicions(each.domain):
            log.warning("%s", sentence)
    for sentence in duplicates([each.domain for each in prepared.values()]):
        log.warning("%s", sentence)
    for name, (first, *more) in faults.items():
        told = f"{len(more) + 1} faults, the first: {first}" if more else first
        table.add_row(literal(name), *["-"] * (len(table.columns) - 2), literal(_within(told, config.root)))
    return table, tuple(chain(*faults.values()))


def _within(sentence: str, root: Path | None) -> str:
    """A sentence with paths below the root, as it was given or spelled out, relative to it."""
    for prefix in () if root is None else (root, root.expanduser()):
        sentence = sentence.replace(f"{prefix}/", "")
    return sentence


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
