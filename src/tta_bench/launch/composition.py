"""Configurations from the files of ``conf/`` and ``experiments/``, each combination of files composed once."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl  # whose repository no public way leads to
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from tta_bench.errors import UserError, nearest_key
from tta_bench.launch.catalogue import PLUGIN_GROUPS, plugin_configs
from tta_bench.launch.experiment_files import ROW_GROUPS, Experiment, read_experiments
from tta_bench.runtime.composed import composed_file
from tta_bench.runtime.paths import CONFIG_DIR

_PLUS = {"method": "+", "adapt": ""}
"""The method is not in the list of defaults, and has to be added."""

_stored: dict[str, Experiment] = {}
"""What Hydra has been told of, by name: to store all experiments takes as long as to check a command line."""


def register_configs(overrides: Sequence[str] = ()) -> None:
    """Make every file of ``experiments/`` selectable as ``experiment=NAME``, and what plug-ins bring by name.

    The rows of an experiment that the overrides choose become choices of the group ``row``: Hydra copies all that is
    stored whenever it composes.

    Raises:
        UserError: a plug-in's file has the name of a built-in one.
    """
    store = ConfigStore.instance()
    for name, experiment in read_experiments().items():
        if _stored.get(name) is not experiment:
            store.store(group="experiment", name=name, node=experiment.sweep_config(), package="_global_")
            _stored[name] = experiment
        for choice, label in experiment.choices().items() if f"experiment={name}" in overrides else ():
            store.store(group="row", name=choice, node=experiment.row_config(label), package="_global_")
    for group in PLUGIN_GROUPS:
        for plugin, path in plugin_configs(group):
            if (CONFIG_DIR / group / path.name).exists():
                raise UserError(f"plug-in {plugin} brings {group}={path.stem}, which exists: rename it")
            store.store(group=group, name=path.stem, node=OmegaConf.load(path), package=_package(group, path.stem))


def _package(group: str, name: str) -> str:
    """Where a choice of a group stands in the configuration; of loggers there may be several."""
    return f"{group}.{name}" if group == "logger" else group


class _OwnFolder(SearchPathPlugin):
    """Puts the folder of ``--config-dir`` before the built-in one."""

    folder: ClassVar[str | None] = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra whenever it starts."""
        if self.folder is not None:
            search_path.prepend("command-line", f"file://{Path(self.folder).absolute()}")


@contextmanager
def composer(config_dir: str | None = None) -> Iterator[Composer]:
    """Hydra, able to compose.

    Args:
        config_dir: of Hydra's flag ``--config-dir``: more YAML files, of one's own methods for instance.

    Raises:
        UserError: that is no folder.
    """
    register_configs()
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir} is not a folder")
    Plugins.instance().register(_OwnFolder)
    _OwnFolder.folder = config_dir
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            loader: Any = GlobalHydra.instance().config_loader()
            yield Composer(loader, only_shipped=config_dir is None)
    finally:
        _OwnFolder.folder = None


class Composer:
    """Composes, and remembers: reading the files takes a hundred times longer than all else that is done to a job.

    Args:
        loader: of Hydra.
        only_shipped: no file of the user's stands before those of ``conf/``.
    """

    def __init__(self, loader: ConfigLoaderImpl, *, only_shipped: bool = False) -> None:
        self.loader = loader
        self.options = cache(self._options)
        self._only_shipped = only_shipped
        self._composed = cache(_compose)

    def _options(self, group: str) -> list[str]:
        """The choices of a config group; none if there is no such group."""
        if group == "row":
            return [choice for experiment in read_experiments().values() for choice in experiment.choices()]
        # From what the loader has read: its own method copies all of that first, for every group.
        return [] if not group else self.loader.repository.get_group_options(group, ObjectType.CONFIG)

    def compose(self, groups: Sequence[str], keys: Sequence[Override] = ()) -> DictConfig:
        """One configuration.

        Args:
            groups: choices of config groups, such as ``data=folder`` and ``+method=tent``. A row of an experiment is
                its method's configuration with what the row sets.
            keys: overrides of single keys.

        Raises:
            HydraException: it cannot be composed.
        """
        rows = [_row(text) for text in groups]
        texts = []
        for text, row in zip(groups, rows, strict=True):
            if row is not None:
                texts += [f"{_PLUS[key]}{key}={row[key]}" for key in ROW_GROUPS if key in row]
            elif not _says_only_what_to_sweep_over(text):
                texts.append(text)
        is_shipped = self._only_shipped and all(map(_is_shipped, texts))
        config = pickle.loads((_compose_shipped if is_shipped else self._composed)(tuple(texts)))
        for row in rows:
            for key, value in (row or {}).items():
                if key not in ROW_GROUPS:
                    OmegaConf.update(config, key, value, force_add=True)
        for override in keys:
            _set(config, override)
        return config

    def hydras_own(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration with Hydra's own part.

        Raises:
            HydraException: it cannot be composed.
        """
        return self.loader.load_configuration("config", list(overrides), run_mode=RunMode.RUN)

    def experiment(self, name: str) -> DictConfig:
        """What an experiment asks of Hydra: its key ``hydra``."""
        shipped = read_experiments().get(name)
        if shipped is not None:
            config = OmegaConf.create(shipped.sweep_config())
            config.hydra.mode = RunMode[config.hydra.mode]  # as Hydra reads it
            return config
        return self.loader.load_configuration("config", [f"experiment={name}"], run_mode=RunMode.MULTIRUN)


def _compose(groups: tuple[str, ...]) -> bytes:
    """A pickle, which is copied several times faster than the configuration itself."""
    return pickle.dumps(compose("config", list(groups)))


@cache
def _compose_shipped(groups: tuple[str, ...]) -> bytes:
    """Of shipped files alone, which are the same as long as a process lives.

    Those of methods and systems set nothing beside their own section: all else is composed once for all of them.
    """
    own = [(group, name) for group, name in map(_choice, groups) if group in ROW_GROUPS]
    if not own:
        return _compose(groups)
    config = pickle.loads(_compose_shipped(tuple(text for text in groups if _choice(text) not in own)))
    for group, name in own:
        OmegaConf.update(config, group, composed_file(group, name), merge=False, force_add=True)
    return pickle.dumps(config)


@cache
def _is_shipped(choice: str) -> bool:
    group, name = _choice(choice)
    return (CONFIG_DIR / group / f"{name}.yaml").is_file()


def _choice(text: str) -> tuple[str, str]:
    """The group and what is chosen of it."""
    group, _, name = text.lstrip("+").partition("=")
    return group, name


def _says_only_what_to_sweep_over(choice: str) -> bool:
    """Whether it is an experiment of rows, which sets nothing but keys of Hydra; one of Hydra's own sets any key."""
    group, name = _choice(choice)
    return group == "experiment" and name in read_experiments()


def _row(choice: str) -> Mapping[str, Any] | None:
    """What a choice of the group ``row`` sets, ``row`` among it; None for another group."""
    group, _, name = choice.partition("=")
    if group != "+row":
        return None
    experiment = read_experiments()[name.rpartition("_")[0]]
    label = experiment.choices()[name]
    return {**experiment.rows[label], "row": label}


def _set(config: DictConfig, override: Override) -> None:
    """Set one key, as Hydra does.

    Raises:
        HydraException: it cannot be set.
    """
    key, value = override.key_or_group, override.value()
    try:
        if override.is_add() and not isinstance(value, dict | list) and OmegaConf.select(config, key) is not None:
            raise HydraException(f"Could not append to config. An item is already at '{key}'.")
        OmegaConf.update(config, key, value, force_add=override.is_add() or override.is_force_add())
    except (ConfigAttributeError, ConfigKeyError) as error:
        whole = error.full_key or key
        section = OmegaConf.select(config, whole.rpartition(".")[0])
        siblings = list(map(str, section)) if isinstance(section, DictConfig) else []
        raise HydraException(f"unknown key '{whole}': {nearest_key(whole, siblings)}") from error
    except OmegaConfBaseException as error:
        raise HydraException(f"Error merging override {override.input_line}") from error


def run_section(container: Mapping[Any, Any]) -> dict[str, Any]:
    """The composed configuration of a run, without what only an experiment needs.

    A row of an experiment keeps those options of the command line that its method has.
    """
    section = {str(key): value for key, value in container.items() if key not in ("experiment", "row")}
    if "row" in container:
        from tta_bench.methods.base import METHODS  # which imports torch

        options = [field.name for field in fields(METHODS.get(section["method"]["name"]).Options)]
        known = ["name", "preset", *options] if options else ["name"]
        section["method"] = {key: value for key, value in section["method"].items() if key in known}
    return section
