"""Draw what a network sees of every domain, with contours, and how bright its images and how large its classes are."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from tta_bench.cli._data import add_all, add_data, data_config, folding
from tta_bench.errors import UserError

if TYPE_CHECKING:
    from tta_bench.schema import DataConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data set, the picture and how much is in it."""
    add_data(parser)
    add_all(parser)
    parser.add_argument(
        "--out", type=Path, help="picture to write (.png, .jpg); default: RESULTS_ROOT/preview/DATA-ROOT-HASH.jpg"
    )
    parser.add_argument("--per-domain", type=_positive, default=6, help="images of each domain")


def run(parsed: argparse.Namespace) -> None:
    """Write the picture."""
    config, names, cache = data_config(parsed)
    path = parsed.out or cache.parent / "preview" / picture_name(config, names, parsed.per_domain)
    with folding(parsed):
        faults = preview(config, names, cache, path, per_domain=parsed.per_domain)
        if path.is_file():
            print(f"wrote {path}")
        if faults:
            raise UserError(faults)


def picture_name(config: DataConfig, names: Sequence[str], per_domain: int) -> str:
    """The name of a preview, after its data set; other images, read or chosen otherwise, have another."""
    from tta_bench.data.cache import digest

    root = "" if config.root is None else os.path.abspath(config.root.expanduser())
    content = config.model_dump(mode="json") | {"root": root}
    words = (config.name, os.path.basename(root), digest([content, list(names), per_domain])[:8])
    return f"{'-'.join(filter(None, words))}.jpg"


def preview(
    config: DataConfig, names: Sequence[str], cache: Path, path: Path, *, per_domain: int = 6
) -> tuple[str, ...]:
    """Draw some images of each domain, half of them with the contours of their classes, and count over all of them.

    Args:
        config: which images, read how.
        names: domains, one row each.
        cache: folder of the prepared images; the decoding serves later runs too.
        path: picture to write, ``.png`` or ``.jpg``.
        per_domain: images per row, spread evenly over the domain.

    Returns:
        The faults of domains that cannot be drawn; without a sound one there is no picture.

    Raises:
        UserError: ``data.root`` does not exist, or the picture cannot be drawn or written.
    """
    from tta_bench.data.prepare import survey
    from tta_bench.report.gallery import draw_gallery

    prepared, faults = survey(config, names, cache)
    try:
        if prepared:
            draw_gallery([each.domain for each in prepared.values()], path, per_domain)
    except (OSError, ValueError) as error:
        raise UserError(f"the preview cannot be drawn into {path}: {error}") from error
    return tuple(chain(*faults.values()))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of images: give 1 or more")
    return int(text)
