"""What a command line may choose and set: the choices of its groups and the keys that they bring; without torch."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tta_bench.errors import UserError, nearest, nearest_key
from tta_bench.launch.composition import Composer, composer
from tta_bench.launch.data_section import validate_data
from tta_bench.launch.experiment_files import read_experiments
from tta_bench.launch.grammar import quote_lists
from tta_bench.launch.hydra_faults import sentence, sentences
from tta_bench.launch.overrides import override_text, parse_overrides, sweep_faults, sweep_values
from tta_bench.runtime.sections import is_section, kind_at
from tta_bench.schema import DataConfig, RunConfig

FREE_FORM = ("data.classes.", "data.domains.", "hydra.")
"""Keys below these are the user's own, or Hydra's."""

SEVERAL = ("logger",)
"""Groups of which several may be chosen at once: ``logger=[wandb,csv]``."""

LAUNCHERS = {"joblib": "joblib", "ray": "ray", "submitit_local": "submitit", "submitit_slurm": "submitit"}
"""Launcher -> the extra that installs it."""


def composed(overrides: Sequence[str], taken: Sequence[str]) -> Any:
    """The composed configuration of a command line that has no method.

    Args:
        overrides: as for a run.
        taken: keys, with all below them, and groups that the command has a use for; of ``GROUP=`` the choice alone.

    Raises:
        UserError: every fault found; a key that a run would take, and this command would not look at, is one.
    """
    groups = {each.removesuffix("=") for each in taken}
    overrides = quote_lists(overrides, multirun=False)
    with sentences(), composer() as hydra:
        parsed, faults = parse_overrides(overrides, hydra.loader)
        faults += hydra_faults(parsed, hydra)
        faults += sweep_faults(parsed, multirun=None)
        faults += repeated_groups(parsed, hydra)
        chosen = [o for o in parsed if o.key_or_group in groups and hydra.options(o.key_or_group)]
        faults += [fault for o in chosen for fault in group_faults(o, hydra)]
        if not faults:
            valid = valid_keys(chosen, hydra)
            for key in (o.key_or_group for o in parsed if o not in chosen):
                known = key in valid or key.startswith(FREE_FORM) or hydra.options(key)
                if not known:
                    faults.append(key_fault(key, valid))
                elif not below(key, taken):
                    faults.append(f"'{key}' is for runs: this takes {', '.join(taken)}, and would not look at it")
        if faults:
            raise UserError(faults)
        chosen = [o for o in parsed if hydra.options(o.key_or_group)]
        others = [o for o in parsed if o not in chosen and not o.is_hydra_override()]
        return OmegaConf.to_container(
            hydra.compose([override_text(o, *sweep_values(o)) for o in chosen], others), resolve=True
        )


def below(key: str, places: Sequence[str]) -> bool:
    """Whether a key is one of some, or below one."""
    return any(key == place or key.startswith(f"{place}.") for place in places)


def compose_data(overrides: Sequence[str]) -> tuple[DataConfig, Path]:
    """The data section and the results root of a command line that has no method.

    Raises:
        UserError: every fault found.
    """
    container = composed(overrides, ("data", "results_root"))
    return validate_data(container["data"]), Path(container["results_root"])


def hydra_faults(overrides: Sequence[Override], hydra: Composer) -> list[str]:
    """Keys of Hydra itself that it does not have, or that cannot have these values."""
    words = [(o.key_or_group, str(o.input_line)) for o in overrides if o.is_hydra_override()]
    groups = [text for key, text in words if key.startswith("hydra/")]
    launchers = (value for o in overrides if o.key_or_group == "hydra/launcher" for value in sweep_values(o))
    is_known = {*launchers} <= {*hydra.options("hydra/launcher")}
    faults = []
    for key, text in words:
        if key.startswith("hydra/") or (key.startswith("hydra.launcher.") and not is_known):
            continue  # checked as any other group; and nobody knows the keys of a launcher that is not there
        try:
            hydra.hydras_own([*groups, text])
        except (HydraException, OmegaConfBaseException) as error:
            valid = set(_paths(hydra.hydras_own([])))
            faults.append(sentence(error) if key in valid else key_fault(key, valid))
    return faults


def repeated_groups(overrides: Sequence[Override], hydra: Composer) -> list[str]:
    """Groups that are chosen twice, where Hydra would complain or silently take the last."""
    counts = Counter(o.get_key_element() for o in overrides if hydra.options(o.key_or_group))
    return [
        f"{key}= is given {count} times: give it once, or several values separated by commas with -m"
        for key, count in counts.items()
        if count > 1
    ]


def group_faults(override: Override, hydra: Composer) -> list[str]:
    """Choices that a group does not have."""
    group = override.key_or_group
    options = hydra.options(group)
    try:
        chosen = override.value()
        values = list(map(str, chosen)) if isinstance(chosen, list) and group in SEVERAL else sweep_values(override)
    except HydraException:
        return [f"cannot sweep over '{override.input_line}': list the values, separated by commas"]
    unknown = [value for value in values if value not in options]
    return [f"unknown {group}={value}: {_group_hint(group, value, options)}" for value in unknown]


def _group_hint(group: str, value: str, options: Sequence[str]) -> str:
    if group == "hydra/launcher" and value in LAUNCHERS:
        return f"install it with pip install 'tta-bench[{LAUNCHERS[value]}]'"
    return nearest(value, options)


def valid_keys(groups: Sequence[Override], hydra: Composer) -> set[str]:
    """All keys of the configurations that the chosen groups make."""
    choices = {o.key_or_group: _one_of_each_method(sweep_values(o)) for o in groups}
    first = {group: values[0] for group, values in choices.items()}
    # A choice brings the keys of its own group: each once, and not each with each.
    chosen = [first, *({**first, group: value} for group, values in choices.items() for value in values[1:])]
    texts = [[_choice(group, value) for group, value in each.items()] for each in chosen]
    always = {"method.preset"} if any("method" in each or "row" in each for each in chosen) else set()
    return always | {path for each in texts for path in _paths(hydra.compose(each))}


def _one_of_each_method(values: Sequence[str]) -> list[str]:
    """One row of each method among rows of an experiment, because their keys are the same; else all values."""
    methods = {
        choice: experiment.rows[label]["method"]
        for experiment in read_experiments().values()
        for choice, label in experiment.choices().items()
    }
    return list({methods.get(value, value): value for value in values}.values())


def not_in_every_row(key: str) -> str:
    """Why an option of a method or system is none of an experiment, whose rows have different ones."""
    return f"'{key}': not every row has it: give it to those that have, LABEL: {{..., {key}: VALUE}}, a row per value"


def not_of_every_choice(key: str, chosen: str) -> str:
    """Why a key is none of a sweep over the choices of its group, of which one has it not."""
    name = chosen.partition("=")[2]
    return f"'{key}': {chosen} has none: leave {name} out of the list, and run it on its own without {key}="


def key_fault(key: str, valid: set[str]) -> str:
    """An unknown key, with the nearest valid one: beside it, or of the same name elsewhere."""
    parent, dot, leaf = key.rpartition(".")
    siblings = {path.removeprefix(parent + dot) for path in valid if path.rpartition(".")[0] == parent}
    elsewhere = sorted(path for path in valid if path.rpartition(".")[2] == leaf)
    if not siblings and parent in valid and (told := _null_hint(parent, leaf)):
        return f"unknown key '{key}': {told}"
    hint = nearest_key(key, siblings) if siblings else nearest(key, valid)
    if elsewhere and "did you mean" not in hint:
        hint = f"did you mean {' or '.join(repr(path) for path in elsewhere)}?"
    return f"unknown key '{key}': {hint}"


def _null_hint(parent: str, leaf: str) -> str | None:
    """How a key is given whose section or mapping is null; None where the parent is neither."""
    kind = kind_at(RunConfig, parent.split("."))
    if not is_section(kind) and get_origin(kind) is not dict:
        return None
    near, names = [leaf], list(kind.model_fields) if is_section(kind) else []
    if names:
        near = difflib.get_close_matches(leaf, names, n=1)
    more = "" if near else f", of {', '.join(names)}"
    return f"{parent} is null and has no keys yet: give it whole, '{parent}={{{(near or ['KEY'])[0]}: VALUE}}'{more}"


def _choice(group: str, value: str) -> str:
    """A group's choice as an override; method and row are not in the defaults list and have to be added."""
    return f"+{group}={value}" if group in ("method", "row") else f"{group}={value}"


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
