"""Check a Hydra command line before Hydra acts on it: all faults at once, each with the nearest valid name."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from importlib.metadata import entry_points
from importlib.util import find_spec
from itertools import islice, product
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tta_bench.cell import REFERENCE
from tta_bench.data.prepare import available_domains
from tta_bench.errors import UserError, nearest
from tta_bench.launch.experiment_files import read_experiments
from tta_bench.launch.hydra_faults import sentence, sentences
from tta_bench.launch.paths import CONFIG_DIR
from tta_bench.launch.targets import domain_faults, with_targets
from tta_bench.launch.text import (
    TEXTS,
    Known,
    hydra_text,
    known_path,
    quote,
    quote_lists_of_names,
    quote_mappings,
    unknown,
)
from tta_bench.methods.base import METHODS
from tta_bench.runtime.names import find, require_utf8
from tta_bench.schema import DataConfig, RunConfig, as_tuple, nearest_key, validate, validate_data
from tta_bench.sinks.base import sink_faults

FREE_FORM = ("data.classes.", "data.domains.", "hydra.")
"""Keys below these are the user's own, or Hydra's."""

DOMAINS = ("source", "target")
"""Keys whose values are names of domains."""

MAPPINGS = ("data.classes", "data.domains", "data.shades")
"""``data.classes={vessel: [1]}`` replaces the default, where Hydra would merge it into the default."""

IN_DEFAULTS = ("model", "training", "data", "protocol", "logger", "experiment")
"""Groups of the defaults list: Hydra chooses them with ``group=``, and the method with ``+method=``."""

NOT_BY_NAME = ("method", "data", "model", "logger")
"""Groups whose ``name`` decides what the other keys mean."""

LAUNCHERS = {"joblib": "joblib", "ray": "ray", "submitit_local": "submitit", "submitit_slurm": "submitit"}
"""Launcher -> the extra that installs it."""


MOST_JOBS = 10_000
"""Jobs of one sweep: more would be checked for minutes, and run for weeks."""


def register_configs() -> None:
    """Make every file of ``experiments/`` selectable as ``experiment=NAME``, and the methods of plug-ins by name.

    The rows of an experiment become choices of the group ``row``.

    A plug-in brings its YAML in ``conf/method/`` beside the module that its entry point names; the module itself is
    not imported for that.

    Raises:
        UserError: a plug-in's method has the name of a built-in one.
    """
    store = ConfigStore.instance()
    for name, experiment in read_experiments().items():
        store.store(group="experiment", name=name, node=experiment.sweep_config(), package="_global_")
        for choice, label in experiment.choices().items():
            store.store(group="row", name=choice, node=experiment.row_config(label), package="_global_")
    for plugin in entry_points(group=METHODS.package):
        spec = find_spec(plugin.module.partition(".")[0])
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(folder).glob("conf/method/*.yaml")):
                if (CONFIG_DIR / "method" / path.name).exists():
                    raise UserError(f"plug-in {plugin.name} brings a method '{path.stem}', which exists: rename it")
                store.store(group="method", name=path.stem, node=OmegaConf.load(path), package="method")


def quote_lists(arguments: Sequence[str], multirun: bool, config_dir: str | None = None) -> list[str]:
    """The command line in Hydra's grammar, from a more forgiving one; the only place that writes names in it.

    Names and paths are text, see :mod:`tta_bench.launch.text`. Lists of targets, and of seeds outside a sweep, are
    marked as lists; mappings replace their defaults; a group is chosen with and without ``+``.

    Raises:
        UserError: words that are not UTF-8.
    """
    require_utf8(arguments)
    pairs = [(key.lstrip("+"), equals, value, key) for key, equals, value in (a.partition("=") for a in arguments)]
    data = [_quoted(key, value, unknown) for key, equals, value, _ in pairs if equals and key.startswith("data")]
    domains = domains_at_hand(data, config_dir) if any(key in DOMAINS for key, *_ in pairs) else ()
    quoted = []
    for (bare, equals, value, key), argument in zip(pairs, arguments, strict=True):
        if not equals:
            quoted.append(argument)
        elif bare == "method":
            quoted.append(f"+method={value}")
        elif bare in IN_DEFAULTS:
            quoted.append(f"{bare}={value}")
        elif bare == "seed" and "," in value and not multirun and not value.startswith(("[", "'", '"')):
            quoted.append(f"seed=[{value}]")
        elif bare in TEXTS or bare in (*MAPPINGS, "target"):
            quoted.append(_quoted(bare, value, partial(find, names=domains) if bare in DOMAINS else known_path))
        elif bare.startswith("hydra."):
            quoted.append(_hydras_own(key, value))
        else:
            quoted.append(argument)
    return quoted


def _quoted(key: str, value: str, known: Known) -> str:
    """A name, a path, a list or a mapping of names in Hydra's grammar; as typed, for the check, if it is broken."""
    try:
        if key == "target":
            return quote_lists_of_names(key, value, known)
        if key in MAPPINGS:
            return quote_mappings(key, value)
        return quote(key, value, known) if key in TEXTS else f"{key}={value}"
    except ValueError:
        return f"{key}={value}"


def _hydras_own(key: str, value: str) -> str:
    """A key of Hydra itself: a folder, for instance, may need quotation marks; its interpolations are meant."""
    try:
        OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        return f"{key}={QuotedString(value, Quote.single).with_quotes()}"
    return f"{key}={value}"


def domains_at_hand(data: Sequence[str], config_dir: str | None = None) -> tuple[str, ...]:
    """The domains of the data set that the ``data`` arguments, in Hydra's grammar, choose; none if that is open.

    The files are read without Hydra, which takes a while to start.
    """
    places = [text for text in data if text.partition("=")[0] in ("data", "data.root", "data.domains")]
    try:
        values = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(places)}
        if any(override.is_sweep_override() for override in values.values()):
            return ()
        chosen = {key: override.value() for key, override in values.items()}
        folders = [Path(folder) for folder in (config_dir, CONFIG_DIR) if folder is not None]
        files = [folder / f"data/{chosen.get('data', 'synthetic')}.yaml" for folder in folders]
        section = yaml.safe_load(next(file for file in files if file.is_file()).read_text(encoding="utf-8"))
        section |= {key.removeprefix("data."): value for key, value in chosen.items() if key.startswith("data.")}
        resolved: Any = OmegaConf.to_container(OmegaConf.create(section), resolve=True)
        return available_domains(_place(resolved))
    except (
        HydraException,
        OmegaConfBaseException,
        UserError,
        OSError,
        ValueError,
        TypeError,
        StopIteration,
        YAMLError,
    ):
        return ()  # reported by the check


def _place(section: Mapping[str, Any]) -> DataConfig:
    """The part of a data section that says where the domains are."""
    places = {key: section.get(key) for key in ("name", "root", "domains")}
    return validate_data({**places, "image_size": 64, "classes": None})


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


def find_jobs(overrides: Sequence[str], *, multirun: bool = True, config_dir: str | None = None) -> list[Job]:
    """Check a whole command line, every combination of a sweep included.

    Args:
        overrides: the arguments that are not flags, as :func:`quote_lists` hands them over.
        multirun: whether ``-m`` is given, so that a list of values is a sweep.
        config_dir: of Hydra's flag ``--config-dir``: more YAML files, of one's own methods for instance.

    Returns:
        The jobs in the order in which Hydra runs them.

    Raises:
        UserError: every fault found.
    """
    overrides = complete_experiment(overrides, config_dir)
    with sentences(), _hydra(config_dir) as loader:
        parsed, faults = _parse(overrides, loader)
        faults += _hydra_faults(parsed, loader)
        experiments = [o for o in parsed if o.key_or_group == "experiment"]
        faults += _sweep_faults(parsed, multirun or any(_is_multirun(o, loader) for o in experiments))
        faults += _repeated_groups(parsed, loader)
        swept = _sweep_of(experiments, loader)
        overruled = _overruled_rows(experiments, parsed)
        if overruled:
            raise UserError(overruled)
        parsed = [*swept, *parsed]
        groups = [o for o in parsed if _options(loader, o.key_or_group)]
        sound = []
        for override in groups:
            found = _group_faults(override, loader)
            faults += found
            sound += [] if found else [override]
        has_method = any(o.key_or_group in ("method", "row") for o in groups)
        if not has_method and all(o in sound for o in experiments):
            faults.append(f"no method is chosen: add +method=NAME, {nearest('', _options(loader, 'method'))}")
        if not any(o.key_or_group in ("method", "row") for o in sound):  # a stand-in, to check the rest
            sound += OverridesParser.create().parse_overrides([f"+method={REFERENCE}"])
            parsed = [o for o in parsed if not o.key_or_group.startswith("method.")]
        valid = _valid_keys(sound)
        for override in parsed:
            key = override.key_or_group
            if override in groups or key.startswith(FREE_FORM):
                continue
            group, _, leaf = key.partition(".")
            if key not in valid:
                faults.append(_key_fault(key, valid))
            elif leaf == "name" and group in NOT_BY_NAME:
                plus = "+" if group == "method" else ""
                faults.append(f"'{key}' alone cannot be set: choose the whole group with {plus}{group}=NAME")
            else:
                sound.append(override)
        jobs, more = _validate_jobs([*sound, *(o for o in parsed if o.key_or_group.startswith(FREE_FORM[:2]))], loader)
        faults += more
    if faults:
        raise UserError(list(dict.fromkeys(faults)))
    return jobs


def complete_experiment(overrides: Sequence[str], config_dir: str | None = None) -> list[str]:
    """The command line with what an experiment leaves open; one without an experiment as it is.

    Without ``source=``, every domain of the data is a source. An option ``method.KEY=VALUE`` may be one of some rows'
    methods alone: it is added to all rows, and :func:`run_section` takes it from the others again.

    Faults of the data are left to :func:`find_jobs`.
    """
    if not any(f"experiment={name}" in overrides for name in read_experiments()):
        return list(overrides)
    keys = [text.partition("=")[0].lstrip("+") for text in overrides]
    pairs = list(zip(keys, overrides, strict=True))
    completed = [f"++{text.lstrip('+')}" if key.startswith("method.") else text for key, text in pairs]
    if "source" not in keys:
        names = domains_at_hand(overrides, config_dir)
        if names:
            completed.append(f"source={','.join(map(hydra_text, names))}")
    return completed


def compose_data(overrides: Sequence[str]) -> tuple[DataConfig, Path]:
    """The data section and the results root of a command line that has no method.

    Raises:
        UserError: every fault found.
    """
    overrides = quote_lists(overrides, multirun=False)
    with sentences(), _hydra() as loader:
        parsed, faults = _parse(overrides, loader)
        faults += _hydra_faults(parsed, loader)
        faults += _sweep_faults(parsed, multirun=None)
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
def _hydra(config_dir: str | None = None) -> Iterator[ConfigLoader]:
    """Hydra, able to compose, for the time of the check."""
    register_configs()
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir} is not a folder")
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        if config_dir is not None:
            path = create_config_search_path(str(CONFIG_DIR))
            path.prepend("command-line", f"file://{Path(config_dir).absolute()}")
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2("tta_bench", path)
        yield GlobalHydra.instance().config_loader()


def _parse(overrides: Sequence[str], loader: ConfigLoader) -> tuple[list[Override], list[str]]:
    """Overrides in Hydra's grammar, and a fault for each argument that is not one."""
    parsed, faults = [], []
    parser = OverridesParser.create(config_loader=loader)
    for text in overrides:
        try:
            (override,) = parser.parse_overrides([text])
        except (HydraException, ValueError, RecursionError):  # Python's too: thousands of digits, or of brackets
            override = None
        if override is None or not override.key_or_group or override.package is not None:
            faults.append(
                f"cannot read '{text}': write KEY=VALUE, and a value with special characters as 'KEY=\"VALUE\"'"
            )
        elif override.key_or_group == "row":
            faults.append(
                f"'{text}': rows are those of an experiment; choose one with experiment=NAME, or +method=NAME"
            )
        elif override.type == OverrideType.DEL:
            faults.append(f"'{text}' cannot remove a key: set it to null instead, {override.key_or_group}=null")
        else:
            parsed.append(override)
    return parsed, faults


def _sweep_faults(overrides: Sequence[Override], multirun: bool | None) -> list[str]:
    """Lists of values that are no sweep, or hold a value twice; ``multirun`` None: there are no sweeps at all."""
    faults = []
    for override in overrides:
        if not override.is_sweep_override():
            continue
        text, key = override.input_line, override.key_or_group
        try:
            values = _values(override)
        except HydraException:
            faults.append(f"cannot sweep over '{text}': list the values, separated by commas")
            continue
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            faults.append(f"{key} lists {twice[0]} more than once: name it once")
        quote = f"quote a value that has a comma, '{key}=\"VALUE\"'"
        if key == "experiment":
            faults.append(f"'{text}': one experiment at a time")
        elif multirun is None:
            faults.append(f"'{text}' has several values where one is expected; {quote}")
        elif not multirun:
            faults.append(f"'{text}' has several values: add -m to run each of them, or {quote}")
    return faults


def _repeated_groups(overrides: Sequence[Override], loader: ConfigLoader) -> list[str]:
    """Groups that are chosen twice, where Hydra would complain or silently take the last."""
    counts = Counter(o.get_key_element() for o in overrides if _options(loader, o.key_or_group))
    return [
        f"{key}= is given {count} times: give it once, or several values separated by commas with -m"
        for key, count in counts.items()
        if count > 1
    ]


def _hydra_faults(overrides: Sequence[Override], loader: ConfigLoader) -> list[str]:
    """Keys of Hydra itself that it does not have, or that cannot have these values."""
    words = [(o.key_or_group, str(o.input_line)) for o in overrides if o.is_hydra_override()]
    groups = [text for key, text in words if key.startswith("hydra/")]
    faults = []
    for key, text in words:
        if key.startswith("hydra/"):  # checked as any other group
            continue
        try:
            loader.load_configuration("config", [*groups, text], run_mode=RunMode.RUN)
        except (HydraException, OmegaConfBaseException) as error:
            valid = set(_paths(loader.load_configuration("config", [], run_mode=RunMode.RUN)))
            faults.append(sentence(error) if key in valid else _key_fault(key, valid))
    return faults


def _options(loader: ConfigLoader, group: str) -> list[str]:
    """The choices of a config group; none if there is no such group."""
    return [] if not group else loader.get_group_options(group, results_filter=ObjectType.CONFIG)


def _values(override: Override) -> list[str]:
    """The values of an override as text: several in a sweep.

    Raises:
        HydraException: a sweep over infinitely many values, or none.
        UserError: a sweep over more values than may be run.
    """
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    sweep = override.value()
    if isinstance(sweep, RangeSweep) and sweep.shuffle:  # would be written out whole; the order does not matter here
        override = replace(override, _value=replace(sweep, shuffle=False))
    try:
        values = list(islice(override.sweep_string_iterator(), MOST_JOBS + 1))
    except (ArithmeticError, ValueError) as error:  # a step of 0, an end that is no number
        raise HydraException(str(error)) from error
    if not values:
        raise HydraException("no value")
    if len(values) > MOST_JOBS:
        raise UserError(f"'{override.input_line}' has more than {MOST_JOBS:,} values: run fewer at a time")
    return values


def _is_multirun(experiment: Override, loader: ConfigLoader) -> bool:
    """Whether an experiment's file asks for a sweep."""
    names = [name for name in _values(experiment) if name in _options(loader, "experiment")]
    return any(_experiment(name, loader).hydra.mode == RunMode.MULTIRUN for name in names)


def _group_faults(override: Override, loader: ConfigLoader) -> list[str]:
    group = override.key_or_group
    options = _options(loader, group)
    try:
        values = _values(override)
    except HydraException:
        return [f"cannot sweep over '{override.input_line}': list the values, separated by commas"]
    unknown = [value for value in values if value not in options]
    return [f"unknown {group}={value}: {_group_hint(group, value, options)}" for value in unknown]


def _group_hint(group: str, value: str, options: Sequence[str]) -> str:
    if group == "hydra/launcher" and value in LAUNCHERS:
        return f"install it with pip install 'tta-bench[{LAUNCHERS[value]}]'"
    return nearest(value, options)


def _sweep_of(experiments: Sequence[Override], loader: ConfigLoader) -> list[Override]:
    """The overrides that an experiment sweeps over, as if they stood on the command line."""
    found: list[Override] = []
    for override in experiments:
        for name in _values(override):
            if name in _options(loader, "experiment"):
                params: Any = OmegaConf.to_container(_experiment(name, loader).hydra.sweeper.params or {}, resolve=True)
                found += OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    return found


def _overruled_rows(experiments: Sequence[Override], parsed: Sequence[Override]) -> list[str]:
    """Keys of the command line that the rows of the experiment are there to vary."""
    chosen = [read_experiments()[name] for o in experiments for name in _values(o) if name in read_experiments()]
    return [
        f"'{o.key_or_group}': the rows of experiment={experiment.name} choose it; leave it out, or run "
        "without experiment="
        for experiment in chosen
        for o in parsed
        if any(o.key_or_group in row for row in experiment.rows.values())
    ]


def _experiment(name: str, loader: ConfigLoader) -> DictConfig:
    """The configuration of an experiment, Hydra's own part included."""
    return loader.load_configuration("config", [f"experiment={name}"], run_mode=RunMode.MULTIRUN)


def _valid_keys(groups: Sequence[Override]) -> set[str]:
    """All keys of the configurations that the chosen groups make."""
    choices = {o.key_or_group: _one_of_each_method(_values(o)) for o in groups}
    first = {group: values[0] for group, values in choices.items()}
    # A choice brings the keys of its own group: each once, and not each with each.
    chosen = [first, *({**first, group: value} for group, values in choices.items() for value in values[1:])]
    texts = [[_choice(group, value) for group, value in each.items()] for each in chosen]
    return {path for each in texts for path in _paths(_compose(each))}


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


def _validate_jobs(overrides: Sequence[Override], loader: ConfigLoader) -> tuple[list[Job], list[str]]:
    """Compose and validate every job: the sound ones, and the faults of the others."""
    # As in Hydra's sweeper, the command line overrules an experiment's sweep.
    latest = {o.key_or_group: o for o in overrides if _is_finite(o)}
    faults: list[str] = []
    jobs = []
    values = [[_text(o, value) for value in _values(o)] for o in latest.values()]
    _check_number_of_jobs(values)
    # Composing the groups is slow: once for all jobs that have the same, whatever else they set. A pickle of the
    # result is copied several times faster than the result.
    compose_once = cache(lambda groups: pickle.dumps(_compose(groups)))
    parse_once = cache(OverridesParser.create().parse_override)
    is_group = [bool(_options(loader, key)) for key in latest]
    for job in product(*values):
        groups = tuple(text for text, group in zip(job, is_group, strict=True) if group)
        own = [parse_once(text) for text, group in zip(job, is_group, strict=True) if not group]
        try:
            composed = pickle.loads(compose_once(groups))
            ConfigLoaderImpl._apply_overrides_to_config(own, composed)
            composed.source = str(composed.source)
            container: Any = OmegaConf.to_container(composed, resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            faults.append(str(error).splitlines()[0])
            continue
        faults += sink_faults(container["logger"])
        try:
            config = validate(run_section(container))
        except UserError as error:
            faults += error.faults
            faults += _place_faults(container)
            continue
        try:
            row = next((text.removeprefix("+row=") for text in job if text.startswith("+row=")), None)
            jobs.append(Job(with_targets(config), row))
        except UserError as error:
            faults += error.faults
    return jobs, faults


def _check_number_of_jobs(values: Iterable[Sequence[str]]) -> None:
    """Refuse a sweep of too many combinations before the first of them is composed.

    Raises:
        UserError: more than :data:`MOST_JOBS`.
    """
    jobs = math.prod(len(each) for each in values)
    if jobs > MOST_JOBS:
        raise UserError(f"this sweep has {jobs:,} runs, more than {MOST_JOBS:,}: run fewer at a time")


def _place_faults(container: Mapping[str, Any]) -> list[str]:
    """Faults of the domains and the data folder of a configuration that has other faults, listed elsewhere."""
    with suppress(UserError):
        data = _place(container["data"])
        targets = as_tuple(container["target"])
        names = targets if isinstance(targets, list | tuple) else ()
        try:
            return domain_faults(data, container["source"], names, container["checkpoint"])
        except UserError as error:
            return list(error.faults)
    return []


def _text(override: Override, value: str) -> str:
    return f"{override.get_key_element()}={value}"


def _is_finite(override: Override) -> bool:
    """Whether the values can be listed; a sweep that cannot is among the faults already."""
    with suppress(HydraException):
        return bool(_values(override))
    return False


def run_section(container: Mapping[Any, Any]) -> dict[str, Any]:
    """The composed configuration of a run, without what only an experiment needs.

    A row of an experiment keeps those options of the command line that its method has.
    """
    section = {str(key): value for key, value in container.items() if key not in ("experiment", "row")}
    if "row" in container:
        options = [field.name for field in fields(METHODS.get(section["method"]["name"]).Options)]
        known = ["name", "preset", *options] if options else ["name"]
        section["method"] = {key: value for key, value in section["method"].items() if key in known}
    return section
