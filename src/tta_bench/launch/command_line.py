"""Check a Hydra command line before Hydra acts on it: all faults at once, each with the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tta_bench.cell import REFERENCE, domain_faults, with_targets
from tta_bench.config import DataConfig, RunConfig, as_tuple, validate, validate_data
from tta_bench.errors import UserError, nearest
from tta_bench.launch.paths import CONFIG_DIR, EXPERIMENTS_DIR

FREE_FORM = ("data.classes.", "data.domains.", "hydra.")
"""Keys below these are the user's own, or Hydra's."""

LISTS = ("target", "seed")
"""``target=A,C`` is a list of targets; a list of seeds in a single run, a sweep over seeds with ``-m``."""


def register_experiments() -> None:
    """Make every file of ``experiments/`` selectable as ``experiment=NAME``."""
    store = ConfigStore.instance()
    for path in sorted(EXPERIMENTS_DIR.glob("*.yaml")):
        store.store(group="experiment", name=path.stem, node=OmegaConf.load(path), package="_global_")


def quote_lists(arguments: Sequence[str], multirun: bool) -> list[str]:
    """The command line with lists of targets, and of seeds outside a sweep, marked as lists for Hydra."""
    quoted = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        is_list = key in LISTS and "," in value and not value.startswith(("[", "'", '"'))
        if is_list and not (multirun and key == "seed"):
            argument = f"{key}=[{value}]"
        quoted.append(argument.replace("method=", "+method=", 1) if argument.startswith("method=") else argument)
    return quoted


def check(overrides: Sequence[str]) -> list[RunConfig]:
    """Check a whole command line, every combination of a sweep included.

    Args:
        overrides: the arguments that are not flags.

    Returns:
        The validated configurations with their targets, one per job.

    Raises:
        UserError: every fault found.
    """
    with _hydra() as loader:
        parsed, faults = _parse(overrides)
        experiments = [o for o in parsed if o.key_or_group == "experiment"]
        parsed = [*_sweep_of(experiments, loader), *parsed]
        groups = [o for o in parsed if _options(loader, o.key_or_group)]
        sound = []
        for override in groups:
            found = _group_faults(override, loader)
            faults += found
            sound += [] if found else [override]
        if not any(o.key_or_group == "method" for o in groups):
            faults.append(f"no method is chosen: add +method=NAME, {nearest('', _options(loader, 'method'))}")
        if not any(o.key_or_group == "method" for o in sound):  # a stand-in, to check the rest
            sound += OverridesParser.create().parse_overrides([f"+method={REFERENCE}"])
            parsed = [o for o in parsed if not o.key_or_group.startswith("method.")]
        valid = _valid_keys(sound)
        for override in parsed:
            if override in groups or override.key_or_group.startswith(FREE_FORM):
                continue
            if override.key_or_group in valid:
                sound.append(override)
            else:
                faults.append(_key_fault(override.key_or_group, valid))
        configs, more = _validate_jobs([*sound, *(o for o in parsed if o.key_or_group.startswith(FREE_FORM[:2]))])
        faults += more
    if faults:
        raise UserError(list(dict.fromkeys(faults)))
    return configs


def compose_data(overrides: Sequence[str]) -> tuple[DataConfig, Path]:
    """The data section and the results root of a command line that has no method.

    Raises:
        UserError: every fault found.
    """
    with _hydra() as loader:
        parsed, faults = _parse(overrides)
        chosen = [o for o in parsed if o.key_or_group == "data"]
        faults += [fault for o in chosen for fault in _group_faults(o, loader)]
        if not faults:
            valid = _valid_keys(chosen)
            keys = [o.key_or_group for o in parsed if not o.key_or_group.startswith(FREE_FORM)]
            faults += [_key_fault(key, valid) for key in keys if key not in valid]
        if faults:
            raise UserError(faults)
        container: Any = OmegaConf.to_container(_compose(overrides), resolve=True)
        return validate_data(container["data"]), Path(container["results_root"])


@contextmanager
def _hydra() -> Iterator[ConfigLoader]:
    """Hydra, able to compose, for the time of the check."""
    register_experiments()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def _parse(overrides: Sequence[str]) -> tuple[list[Override], list[str]]:
    """Overrides in Hydra's grammar, and a fault for each argument that is not one."""
    parsed, faults = [], []
    for text in overrides:
        try:
            parsed += OverridesParser.create().parse_overrides([text])
        except HydraException:
            faults.append(f"cannot read '{text}': write KEY=VALUE; quote values with special characters")
    return parsed, faults


def _options(loader: ConfigLoader, group: str) -> list[str]:
    """The choices of a config group; none if there is no such group."""
    return loader.get_group_options(group, results_filter=ObjectType.CONFIG)


def _values(override: Override) -> list[str]:
    """The values of an override as text: several in a sweep."""
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]


def _group_faults(override: Override, loader: ConfigLoader) -> list[str]:
    group = override.key_or_group
    options = _options(loader, group)
    unknown = [value for value in _values(override) if value not in options and value != "null"]
    return [f"unknown {group}={value}: {nearest(value, options)}" for value in unknown]


def _sweep_of(experiments: Sequence[Override], loader: ConfigLoader) -> list[Override]:
    """The overrides that an experiment sweeps over, as if they stood on the command line."""
    found: list[Override] = []
    for override in experiments:
        for name in _values(override):
            if name in _options(loader, "experiment"):
                config = loader.load_configuration("config", [f"experiment={name}"], run_mode=_multirun())
                params: Any = OmegaConf.to_container(config.hydra.sweeper.params or {})
                found += OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    return found


def _multirun() -> Any:
    from hydra.types import RunMode

    return RunMode.MULTIRUN


def _valid_keys(groups: Sequence[Override]) -> set[str]:
    """All keys of the configurations that the chosen groups make."""
    choices = {o.key_or_group: _values(o) for o in groups}
    valid: set[str] = set()
    for combination in product(*choices.values()):
        chosen = [_choice(group, value) for group, value in zip(choices, combination, strict=True)]
        valid |= set(_paths(_compose(chosen)))
    return valid


def _key_fault(key: str, valid: set[str]) -> str:
    parent, dot, leaf = key.rpartition(".")
    siblings = {path.removeprefix(parent + dot) for path in valid if path.rpartition(".")[0] == parent}
    return f"unknown key '{key}': {nearest(leaf, siblings) if siblings else nearest(key, valid)}"


def _choice(group: str, value: str) -> str:
    """A group's choice as an override; the method is not in the defaults list and has to be added."""
    return f"+{group}={value}" if group == "method" else f"{group}={value}"


def _compose(overrides: Sequence[str]) -> DictConfig:
    return compose("config", list(overrides))


def _paths(config: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Every key of a nested configuration, dotted; interpolations are not resolved."""
    for key in config:
        path = f"{prefix}{key}"
        yield path
        if isinstance(config, DictConfig) and (
            OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key)
        ):
            continue
        if isinstance(config[key], DictConfig):
            yield from _paths(config[key], f"{path}.")


def _validate_jobs(overrides: Sequence[Override]) -> tuple[list[RunConfig], list[str]]:
    """Compose and validate every job: the sound ones, and the faults of the others."""
    latest = {o.key_or_group: o for o in overrides}  # the command line overrules an experiment's sweep
    faults: list[str] = []
    configs = []
    for job in product(*[[_text(o, value) for value in _values(o)] for o in latest.values()]):
        try:
            container: Any = OmegaConf.to_container(_compose(job), resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            faults.append(str(error).splitlines()[0])
            continue
        try:
            config = validate(run_section(container))
        except UserError as error:
            faults += error.faults
            with suppress(UserError):  # its own faults are among the above
                data = validate_data(container["data"])
                faults += domain_faults(
                    data, container["source"], as_tuple(container["target"]), container["checkpoint"]
                )
            continue
        try:
            configs.append(with_targets(config))
        except UserError as error:
            faults += error.faults
    return configs, faults


def _text(override: Override, value: str) -> str:
    prefix = {"CHANGE": "", "ADD": "+", "FORCE_ADD": "++", "DEL": "~"}[override.type.name] if override.type else ""
    return f"{prefix}{override.get_key_element().lstrip('+~')}={value}"


def run_section(container: Mapping[Any, Any]) -> dict[str, Any]:
    """The composed configuration without the entry of the defaults list that only chooses a sweep."""
    return {str(key): value for key, value in container.items() if key != "experiment"}
