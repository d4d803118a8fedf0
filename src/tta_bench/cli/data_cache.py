"""Decode and resize every image of a data set once, ahead of runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tta_bench.cli._data import add_data as add_arguments
from tta_bench.cli._data import data_config
from tta_bench.runtime.names import literal

if TYPE_CHECKING:
    from rich.table import Table

    from tta_bench.schema import DataConfig

__all__ = ["add_arguments", "cache_command", "run"]


def run(parsed: argparse.Namespace) -> None:
    """Print what was prepared."""
    Console().print(cache_command(*data_config(parsed)))


def cache_command(config: DataConfig, names: Sequence[str], cache: Path, *, progress: bool = True) -> Table:
    """Fill the cache.

    Returns:
        A table of the domains: number of images and fingerprint.

    Raises:
        UserError: as :func:`tta_bench.data.prepare.prepare`.
    """
    from rich.table import Table

    from tta_bench.data.prepare import prepare

    domains = prepare(config, names, cache, progress=progress)
    table = Table(title=literal(f"prepared in {cache}"))
    table.add_column("domain")
    table.add_column("images", justify="right")
    table.add_column("fingerprint")
    for name, domain in domains.items():
        table.add_row(literal(name), str(len(domain)), domain.fingerprint)
    return table
