"""What the YAML of one choice of a config group says, with what it shares with others, without a command line."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hydra import version

# The public way composes Hydra's own part, too, which takes thirty times as long as a file.
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from tta_bench.runtime.paths import CONFIG_DIR, package_folder

_read: dict[tuple[str, str, str], DictConfig] = {}
"""By the file's name, the package that brings it, and the folders that are searched for it."""


def composed_file(group: str, name: str, module: str = __name__) -> DictConfig:
    """The content of a choice's YAML with what it shares with others, open to further keys; empty where there is none.

    Args:
        group: of the configuration.
        name: of the choice.
        module: that registers it: a package of the user's brings the file itself.
    """
    search_path, package = create_config_search_path(str(CONFIG_DIR)), module.partition(".")[0]
    key = f"{group}/{name}", package, str(search_path)
    if key not in _read:
        if package != __name__.partition(".")[0]:
            with suppress(ModuleNotFoundError, ValueError):  # the latter of a notebook
                path = package_folder(module) / f"conf/{group}/{name}.yaml"
                if path.exists():
                    ConfigStore.instance().store(group=group, name=name, node=OmegaConf.load(path), package=group)
        version.setbase("1.3")
        _read[key] = _composed(f"{group}/{name}", ConfigLoaderImpl(search_path)).get(group, DictConfig({}))
    return _read[key]


def _composed(name: str, loader: Any) -> DictConfig:
    """A file and the defaults that it lists, as Hydra composes them."""
    if not loader.repository.config_exists(name):
        return DictConfig({})
    found = create_defaults_list(loader.repository, name, [], prepend_hydra=False, skip_missing=False)
    composed: DictConfig = loader._compose_config_from_defaults_list(found.defaults, loader.repository)
    return composed
