"""Check a Hydra command line before Hydra acts on it: all faults at once, each with the nearest valid name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tta_bench.cell import REFERENCE
from tta_bench.errors import UserError, nearest, nearest_key
from tta_bench.launch.composition import Composer, composer, run_section
from tta_bench.launch.experiment_checks import experiment_faults, with_files
from tta_bench.launch.experiment_files import read_experiments
from tta_bench.launch.grammar import complete_experiment, place, quote_lists
from tta_bench.launch.hydra_faults import sentence, sentences
from tta_bench.launch.overrides import (
    check_number_of_jobs,
    is_finite,
    override_text,
    parse_overrides,
    sweep_faults,
    sweep_values,
)
from tta_bench.launch.targets import domain_faults, with_targets
from tta_bench.launch.tuned import with_tuned
from tta_bench.launch.validation import validate, validate_data, validate_model
from tta_bench.schema import DataConfig, ModelConfig, RunConfig, as_tuple, validate_section

FREE_FORM = ("data.classes.", "data.domains.", "hydra.")
"""Keys below these are the user's own, or Hydra's."""

NOT_BY_NAME = ("method", "adapt", "data", "model")
"""Groups whose ``name`` decides what the other keys mean."""

SEVERAL = ("logger",)
"""Groups of which several may be chosen at once: ``logger=[wandb,csv]``."""

LAUNCHERS = {"joblib": "joblib", "ray": "ray", "submitit_local": "submitit", "submitit_slurm": "submitit"}
"""Launcher -> the extra that installs it."""


@dataclass(frozen=True)
class Job:
    """One run of a command line.

    Attributes:
        config: validated, with its targets.
        row: of the experiment's table, as a choice of the group ``row``; None without an experiment.
    """

    config: RunConfig
    row: str | None


def check(overrides: Sequence[str], *, multirun: bool = True, config_dir: str | None = None) -> list[RunConfig]:
    """The configurations of :func:`find_jobs`."""
    return [job.config for job in find_jobs(overrides, multirun=multirun, config_dir=config_dir)]


def find_jobs(
    overrides: Sequence[str],
    *,
    multirun: bool = True,
    config_dir: str | None = None,
    resolve: Callable[[Mapping[str, Any]], RunConfig] | None = None,
) -> list[Job]:
    """Check a whole command line, every combination of a sweep included.

    Args:
        overrides: the arguments that are not flags, as :func:`~tta_bench.launch.grammar.quote_lists` hands them over.
        multirun: whether ``-m`` is given, so that a list of values is a sweep.
        config_dir: of Hydra's flag ``--config-dir``: more YAML files, of one's own methods for instance.
        resolve: makes a run of a composed configuration; default: it is validated, and gets its targets from the data.

    Returns:
        The jobs in the order in which Hydra runs them.

    Raises:
        UserError: every fault found.
    """
    overrides = complete_experiment(overrides, config_dir)
    with sentences(), composer(config_dir) as hydra:
        parsed, faults = parse_overrides(overrides, hydra.loader)
        faults += _hydra_faults(parsed, hydra)
        experiments = [o for o in parsed if o.key_or_group == "experiment"]
        faults += sweep_faults(parsed, multirun or any(_is_multirun(o, hydra) for o in experiments))
        faults += _repeated_groups(parsed, hydra)
        swept, typed = _sweep_of(experiments, hydra), parsed
        refused = [*experiment_faults(experiments), *_overruled_rows(experiments, parsed)]
        if refused:
            raise UserError(refused)
        parsed = [*swept, *parsed]
        groups = [o for o in parsed if hydra.options(o.key_or_group)]
        sound = []
        for override in groups:
            unsound = _group_faults(override, hydra)
            faults += unsound
            sound += [] if unsound else [override]
        has_method = any(o.key_or_group in ("method", "row") for o in groups)
        if not has_method and all(o in sound for o in experiments):
            faults.append(f"no method is chosen: add +method=NAME, {nearest('', hydra.options('method'))}")
        if not any(o.key_or_group in ("method", "row") for o in sound):  # a stand-in, to check the rest
            sound += OverridesParser.create().parse_overrides([f"+method={REFERENCE}"])
            parsed = [o for o in parsed if not o.key_or_group.startswith("method.")]
        valid = _valid_keys(sound, hydra)
        for override in parsed:
            key = override.key_or_group
            if override in groups or key.startswith(FREE_FORM):
                continue
            group, _, leaf = key.partition(".")
            if key not in valid:
                faults.append(_key_fault(key, valid))
            elif leaf == "name" and group in NOT_BY_NAME:
                plus = "+" if group in ("method", "adapt") else ""
                faults.append(f"'{key}' alone cannot be set: choose the whole group with {plus}{group}=NAME")
            else:
                sound.append(override)
        checked = [*sound, *(o for o in parsed if o.key_or_group.startswith(FREE_FORM[:2]))]
        jobs, more = _validate_jobs(checked, hydra, resolve)
        faults += more
    if faults:
        raise UserError(with_files(list(dict.fromkeys(faults)), experiments, typed))
    return jobs


def compose_data(overrides: Sequence[str]) -> tuple[DataConfig, Path]:
    """The data section and the results root of a command line that has no method.

    Raises:
        UserError: every fault found.
    """
    container = _composed(overrides, ("data",))
    return validate_data(container["data"]), Path(container["results_root"])


def compose_source(overrides: Sequence[str]) -> tuple[ModelConfig, DataConfig]:
    """The model section of such a command line, and the data section, whose images need not be there.

    Raises:
        UserError: every fault found.
    """
    container = _composed(overrides, ("data", "model", "preprocessing"))
    return validate_model(container["model"]), validate_section(DataConfig, container["data"], "data")


def _composed(overrides: Sequence[str], groups: Sequence[str]) -> Any:
    """The composed configuration of a command line that has no method but may choose these groups."""
    overrides = quote_lists(overrides, multirun=False)
    with sentences(), composer() as hydra:
        parsed, faults = parse_overrides(overrides, hydra.loader)
        faults += _hydra_faults(parsed, hydra)
        faults += sweep_faults(parsed, multirun=None)
        chosen = [o for o in parsed if o.key_or_group in groups]
        faults += [fault for o in chosen for fault in _group_faults(o, hydra)]
        if not faults:
            valid = _valid_keys(chosen, hydra)
            keys = [o.key_or_group for o in parsed if o not in chosen and not o.key_or_group.startswith(FREE_FORM)]
            faults += [_key_fault(key, valid) for key in keys if key not in valid]
        if faults:
            raise UserError(faults)
        chosen = [o for o in parsed if hydra.options(o.key_or_group)]
        others = [o for o in parsed if o not in chosen and not o.is_hydra_override()]
        return OmegaConf.to_container(
            hydra.compose([override_text(o, *sweep_values(o)) for o in chosen], others), resolve=True
        )


def _repeated_groups(overrides: Sequence[Override], hydra: Composer) -> list[str]:
    """Groups that are chosen twice, where Hydra would complain or silently take the last."""
    counts = Counter(o.get_key_element() for o in overrides if hydra.options(o.key_or_group))
    return [
        f"{key}= is given {count} times: give it once, or several values separated by commas with -m"
        for key, count in counts.items()
        if count > 1
    ]


def _hydra_faults(overrides: Sequence[Override], hydra: Composer) -> list[str]:
    """Keys of Hydra itself that it does not have, or that cannot have these values."""
    words = [(o.key_or_group, str(o.input_line)) for o in overrides if o.is_hydra_override()]
    groups = [text for key, text in words if key.startswith("hydra/")]
    faults = []
    for key, text in words:
        if key.startswith("hydra/"):  # checked as any other group
            continue
        try:
            hydra.hydras_own([*groups, text])
        except (HydraException, OmegaConfBaseException) as error:
            valid = set(_paths(hydra.hydras_own([])))
            faults.append(sentence(error) if key in valid else _key_fault(key, valid))
    return faults


def _is_multirun(experiment: Override, hydra: Composer) -> bool:
    """Whether an experiment's file asks for a sweep."""
    names = [name for name in sweep_values(experiment) if name in hydra.options("experiment")]
    return any(hydra.experiment(name).hydra.mode == RunMode.MULTIRUN for name in names)


def _group_faults(override: Override, hydra: Composer) -> list[str]:
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


def _sweep_of(experiments: Sequence[Override], hydra: Composer) -> list[Override]:
    """The overrides that an experiment sweeps over, as if they stood on the command line."""
    swept: list[Override] = []
    for override in experiments:
        for name in sweep_values(override):
            if name in hydra.options("experiment"):
                params: Any = OmegaConf.to_container(hydra.experiment(name).hydra.sweeper.params or {}, resolve=True)
                swept += OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    return swept


def _overruled_rows(experiments: Sequence[Override], parsed: Sequence[Override]) -> list[str]:
    """Keys of the command line that the rows of the experiment are there to vary."""
    chosen = [read_experiments()[name] for o in experiments for name in sweep_values(o) if name in read_experiments()]
    return [
        f"'{o.key_or_group}': the rows of experiment={experiment.name} choose it; leave it out, or run "
        "without experiment="
        for experiment in chosen
        for o in parsed
        if any(o.key_or_group in row for row in experiment.rows.values())
    ]


def _valid_keys(groups: Sequence[Override], hydra: Composer) -> set[str]:
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


def _key_fault(key: str, valid: set[str]) -> str:
    """An unknown key, with the nearest valid one: beside it, or of the same name elsewhere."""
    parent, dot, leaf = key.rpartition(".")
    siblings = {path.removeprefix(parent + dot) for path in valid if path.rpartition(".")[0] == parent}
    elsewhere = sorted(path for path in valid if path.rpartition(".")[2] == leaf)
    hint = nearest_key(key, siblings) if siblings else nearest(key, valid)
    if elsewhere and "did you mean" not in hint:
        hint = f"did you mean {' or '.join(repr(path) for path in elsewhere)}?"
    return f"unknown key '{key}': {hint}"


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


def _validate_jobs(
    overrides: Sequence[Override], hydra: Composer, resolve: Callable[[Mapping[str, Any]], RunConfig] | None
) -> tuple[list[Job], list[str]]:
    """Compose and validate every job: the sound ones, and the faults of the others."""
    # As in Hydra's sweeper, the command line overrules an experiment's sweep.
    latest = {o.key_or_group: o for o in overrides if is_finite(o)}
    faults: list[str] = []
    jobs = []
    values = [[override_text(o, value) for value in sweep_values(o)] for o in latest.values()]
    check_number_of_jobs(values)
    parse_once = cache(OverridesParser.create().parse_override)
    is_group = [bool(hydra.options(key)) for key in latest]
    for job in product(*values):
        groups = tuple(text for text, group in zip(job, is_group, strict=True) if group)
        settings = [parse_once(text) for text, group in zip(job, is_group, strict=True) if not group]
        try:
            composed = hydra.compose(groups, settings)
            container: Any = OmegaConf.to_container(composed, resolve=True)
            container["source"] = str(container["source"])
        except (HydraException, OmegaConfBaseException) as error:
            faults.append(str(error).splitlines()[0])
            continue
        try:
            config = validate(run_section(container)) if resolve is None else resolve(run_section(container))
        except UserError as error:
            faults += error.faults
            faults += _place_faults(container) if resolve is None else []
            continue
        try:
            row = next((text.removeprefix("+row=") for text in job if text.startswith("+row=")), None)
            jobs.append(Job(with_tuned(with_targets(config)) if resolve is None else config, row))
        except UserError as error:
            faults += error.faults
    return jobs, faults


def _place_faults(container: Mapping[str, Any]) -> list[str]:
    """Faults of the domains and the data folder of a configuration that has other faults, listed elsewhere."""
    with suppress(UserError):
        data = place(container["data"])
        targets = as_tuple(container["target"])
        names = targets if isinstance(targets, list | tuple) else ()
        try:
            return domain_faults(data, container["source"], names, container["checkpoint"])
        except UserError as error:
            return list(error.faults)
    return []
