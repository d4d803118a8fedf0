"""What the subcommands about a data set share."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tta_bench.errors import UserError, folded

if TYPE_CHECKING:
    from tta_bench.schema import DataConfig


def add_data(parser: argparse.ArgumentParser) -> None:
    """The data set and its domains."""
    text = "as for a run: data=folder data.root=DIR data.image_size=256 …"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)
    parser.add_argument("--domains", help="names, separated by commas; default: all")


def add_all(parser: argparse.ArgumentParser) -> None:
    """Whether many faults of one kind are told each."""
    parser.add_argument("--all", action="store_true", help="each fault on a line, also where many are alike")


@contextmanager
def folding(parsed: argparse.Namespace) -> Iterator[None]:
    """Put faults of one kind together, unless ``--all`` is given.

    Raises:
        UserError: one that was raised within, with fewer lines.
    """
    try:
        yield
    except UserError as error:
        raise UserError(error.faults if parsed.all else folded(error.faults)) from None


def release_sentence(root: Path) -> tuple[bool, str]:
    """Whether a recipe would turn a folder that is no data set yet into one, and which."""
    from tta_bench.data.recipes.pairing import fitting, fitting_sentence
    from tta_bench.data.recipes.patterns import Files

    files = Files(root)
    fits = fitting(files)
    return bool(fits), fitting_sentence(files, fits)


def data_config(parsed: argparse.Namespace) -> tuple[DataConfig, tuple[str, ...], Path]:
    """The data section of the composed configuration, the asked-for domains and the folder of prepared images.

    Raises:
        UserError: every fault of the overrides, or no domain is named.
    """
    from tta_bench.data.readers.base import available_domains
    from tta_bench.launch.keys import compose_data
    from tta_bench.launch.text import split
    from tta_bench.runtime.names import find

    config, root = compose_data(parsed.overrides)
    try:
        available = available_domains(config)
    except UserError as error:
        if config.root is None or not config.root.expanduser().is_dir():
            raise
        raise UserError([*error.faults, release_sentence(config.root.expanduser())[1]]) from None
    if parsed.domains is None:
        return config, available, root / "data"
    names = split(parsed.domains, lambda text: find(text, available))
    if not any(names):
        raise UserError("--domains is empty: name domains, separated by commas, or leave it out")
    return config, tuple("null" if name is None else name for name in names if name != ""), root / "data"
