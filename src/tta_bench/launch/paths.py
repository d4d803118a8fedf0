"""Where the configuration lies: beside the sources in a checkout, inside the package in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_ROOT = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1]

CONFIG_DIR = _ROOT / "conf"
"""Hydra's config groups."""

EXPERIMENTS_DIR = _ROOT / "experiments"
"""One sweep per file, chosen by ``experiment=NAME``."""
