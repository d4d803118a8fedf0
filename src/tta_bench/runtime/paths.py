"""Where configurations lie: beside the sources in a checkout, inside the package in a wheel or of a plug-in."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_ROOT = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1]

CONFIG_DIR = _ROOT / "conf"
"""Hydra's config groups."""

EXPERIMENTS_DIR = _ROOT / "experiments"
"""One sweep per file, chosen by ``experiment=NAME``."""


def package_folder(module: str) -> Path:
    """The folder of a module's outermost package, or the file of a lone module without its suffix.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    top = module.partition(".")[0]
    spec = find_spec(top)
    if spec is None or not (spec.origin or spec.submodule_search_locations):
        raise ModuleNotFoundError(f"No module named '{top}'")
    folders = list(spec.submodule_search_locations or ())
    return Path(folders[0]) if folders else Path(str(spec.origin)).with_suffix("")
