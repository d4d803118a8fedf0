"""Where configurations lie: beside the sources in a checkout, inside the package in a wheel or of a plug-in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

_PACKAGE = Path(__file__).parents[1]
_ROOT = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1]

CONFIG_DIR = _ROOT / "conf"
"""Hydra's config groups."""

EXPERIMENTS_DIR = _ROOT / "experiments"
"""One sweep per file, chosen by ``experiment=NAME``."""


@cache
def shipped(name: str) -> Mapping[str, Any]:
    """What a file of ``conf/`` sets, a data set's with what all of them share; empty for what a plug-in brings.

    Args:
        name: ``protocol/online``, for instance; its list of Hydra's defaults is left out.
    """
    path = CONFIG_DIR / f"{name}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    content.pop("defaults", None)
    return {**shipped("shared/data"), **content} if name.startswith("data/") else content


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
