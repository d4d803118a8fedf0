"""Check a Hydra command line before Hydra acts on it: all faults at once, each with the nearest valid name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tta_bench.errors import UserError, nearest
from tta_bench.launch.composition import Composer, composer, run_section
from tta_bench.launch.experiment_checks import experiment_faults, table_faults, unused_in_rows, with_files
from tta_bench.launch.experiment_files import read_experiments
from tta_bench.launch.grammar import complete_experiment, place
from tta_bench.launch.hydra_faults import sentences
from tta_bench.launch.keys import (
    FREE_FORM,
    composed,
    group_faults,
    hydra_faults,
    key_fault,
    not_in_every_row,
    not_of_every_choice,
    repeated_groups,
    valid_keys,
)
from tta_bench.launch.overrides import (
    check_number_of_jobs,
    is_finite,
    override_text,
    parse_overrides,
    sweep_faults,
    sweep_values,
)
from tta_bench.launch.targets import domain_faults, with_targets
from tta_bench.launch.tuned import search_of, with_tuned
from tta_bench.launch.unused import unused_keys
from tta_bench.launch.validation import validate, validate_model
from tta_bench.schema import UNADAPTED, DataConfig, ModelConfig, RunConfig, as_tuple, validate_section
from tta_bench.search.study import Study

NOT_BY_NAME = ("method", "adapt", "data", "model")
"""Groups whose ``name`` decides what the other keys mean."""


@dataclass(frozen=True)
class Job:
    """One run of a command line.

    Attributes:
        config: validated, with its targets.
        row: of the experiment's table, as a choice of the group ``row``; None without an experiment.
        search: whose options it has, see :func:`~tta_bench.launch.tuned.search_of`.
    """

    config: RunConfig
    row: str | None
    search: Study | None = None


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
        faults += hydra_faults(parsed, hydra)
        experiments = [o for o in parsed if o.key_or_group == "experiment"]
        sweeps = multirun or any(_is_multirun(o, hydra) for o in experiments)
        faults += sweep_faults(parsed, sweeps if resolve is None else None)
        faults += repeated_groups(parsed, hydra)
        swept, typed = _sweep_of(experiments, hydra), parsed
        refused = [*experiment_faults(experiments), *_overruled_rows(experiments, parsed)]
        if refused:
            raise UserError(refused)
        parsed = [*swept, *parsed]
        groups = [o for o in parsed if hydra.options(o.key_or_group)]
        sound = []
        for override in groups:
            unsound = group_faults(override, hydra)
            faults += unsound
            sound += [] if unsound else [override]
        has_method = any(o.key_or_group in ("method", "row") for o in groups)
        if not has_method and all(o in sound for o in experiments):
            faults.append(f"no method is chosen: add +method=NAME, {nearest('', hydra.options('method'))}")
        if not any(o.key_or_group in ("method", "row") for o in sound):  # a stand-in, to check the rest
            sound += OverridesParser.create().parse_overrides([f"+method={UNADAPTED}"])
            parsed = [o for o in parsed if not o.key_or_group.startswith("method.")]
        valid = valid_keys(sound, hydra)
        for override in parsed:
            key = override.key_or_group
            if override in groups or key.startswith(FREE_FORM):
                continue
            group, _, leaf = key.partition(".")
            if key not in valid:
                of_rows = experiments and group == "adapt"
                faults.append(not_in_every_row(key) if of_rows else key_fault(key, valid))
            elif leaf == "name" and group in NOT_BY_NAME:
                plus = "+" if group in ("method", "adapt") else ""
                faults.append(f"'{key}' alone cannot be set: choose the whole group with {plus}{group}=NAME")
            else:
                sound.append(override)
        checked = [*sound, *(o for o in parsed if o.key_or_group.startswith(FREE_FORM[:2]))]
        jobs, more = _validate_jobs(checked, hydra, resolve)
        faults += more
        runs = [(job.row, job.config) for job in jobs]
        if resolve is None:
            faults += table_faults(experiments, runs)
        if not faults:  # faults leave out runs, which may look at what the others do not
            words = ((o.key_or_group, str(o.input_line)) for o in parsed)
            faults += [*unused_keys(words, [config for _, config in runs]), *unused_in_rows(experiments, runs)]
    if faults:
        raise UserError(with_files(list(dict.fromkeys(faults)), experiments, typed, config_dir))
    return jobs


OF_SOURCE = (
    *("model", "preprocessing", "branches", "data="),
    *("data.classes", "data.exclusive", "data.image_size", "data.fit"),
)
"""What a command line says of a source model alone."""


def compose_source(overrides: Sequence[str]) -> tuple[ModelConfig, DataConfig]:
    """The model section of a command line of :data:`OF_SOURCE`, and its data section, whose images need not be there.

    Raises:
        UserError: every fault found.
    """
    container = composed(overrides, OF_SOURCE)
    return validate_model(container["model"]), validate_section(DataConfig, container["data"], "data")


def _is_multirun(experiment: Override, hydra: Composer) -> bool:
    """Whether an experiment's file asks for a sweep."""
    names = [name for name in sweep_values(experiment) if name in hydra.options("experiment")]
    return any(hydra.experiment(name).hydra.mode == RunMode.MULTIRUN for name in names)


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
            fault = str(error).splitlines()[0]
            faults.append(_told_of_choice(fault, latest, job))
            continue
        try:
            config = validate(run_section(container)) if resolve is None else resolve(run_section(container))
        except UserError as error:
            faults += error.faults
            faults += _place_faults(container) if resolve is None else []
            continue
        try:
            row = next((text.removeprefix("+row=") for text in job if text.startswith("+row=")), None)
            if resolve is None:
                config = with_targets(config)
                jobs.append(Job(with_tuned(config), row, search_of(config)))
            else:
                jobs.append(Job(config, row))
        except UserError as error:
            faults += error.faults
    return jobs, faults


def _told_of_choice(fault: str, keys: Collection[str], job: Sequence[str]) -> str:
    """Hydra's fault of a job, or where other choices of the command line have the key, which one has it not."""
    starts = {
        key: tuple(f"unknown key '{part}'" for part in (key, key.partition(".")[0])) for key in keys if "." in key
    }
    key = next((key for key, start in starts.items() if fault.startswith(start)), "")
    group = key.partition(".")[0]
    if "row" in keys and group in ("method", "adapt"):
        return not_in_every_row(key)
    chosen = next((text.lstrip("+") for text in job if text.lstrip("+").startswith(f"{group}=")), None)
    return fault if chosen is None or not key else not_of_every_choice(key, chosen)


def _place_faults(container: Mapping[str, Any]) -> list[str]:
    """Faults of the domains and the data folder of a configuration that has other faults, listed elsewhere."""
    with suppress(UserError):
        data = place(container["data"])
        listed = (as_tuple(container[key]) for key in ("target", "route"))
        targets, route = (names if isinstance(names, list | tuple) else () for names in listed)
        try:
            return domain_faults(data, container["source"], targets, container["checkpoint"], route)
        except UserError as error:
            return list(error.faults)
    return []
