"""The formats of a report: one module each, with the name of its ``FILE`` and ``write(table) -> str``."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module

from tta_bench.report.model import Table

_FIRST = ("markdown", "csv", "latex")


def formats() -> dict[str, Callable[[Table], str]]:
    """File -> what writes its content; all modules of this package, Markdown first."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    ordered = [*_FIRST, *(name for name in names if name not in _FIRST)]
    modules = [import_module(f"{__name__}.{name}") for name in ordered]
    return {module.FILE: module.write for module in modules}
