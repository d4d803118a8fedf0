"""What a user types, in Hydra's grammar: names and paths are text, and what an experiment leaves open is filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tta_bench.data.readers.base import available_domains
from tta_bench.errors import UserError
from tta_bench.launch.catalogue import plugin_configs
from tta_bench.launch.data_section import validate_data
from tta_bench.launch.experiment_files import find_experiment, read_experiments
from tta_bench.launch.text import (
    Known,
    hydra_text,
    known_path,
    quote,
    quote_lists_of_names,
    quote_mappings,
    text_kind,
    unknown,
)
from tta_bench.runtime.names import find, require_utf8
from tta_bench.runtime.paths import CONFIG_DIR, shipped
from tta_bench.schema import UNADAPTED, DataConfig

LISTS = ("target", "route", "stages")
"""Keys whose values are lists of names of domains."""

DOMAINS = ("source", *LISTS)
"""Keys whose values are names of domains."""

MAPPINGS = ("data.classes", "data.domains", "data.shades", "search.shifts")
"""``data.classes={vessel: [1]}`` replaces the default, where Hydra would merge it into the default."""

IN_DEFAULTS = ("model", "branches", "preprocessing", "training", "data", "protocol", "adapt", "logger", "experiment")
"""Groups of the defaults list: Hydra chooses them with ``group=``, and the method with ``+method=``."""

LONGEST_GROUP = 120
"""Characters of a group's name; W&B takes 128."""


def quote_lists(arguments: Sequence[str], multirun: bool, config_dir: str | None = None) -> list[str]:
    """The command line in Hydra's grammar, from a more forgiving one; the only place that writes names in it.

    Names and paths are text, see :mod:`tta_bench.launch.text`. Lists of domains, and of seeds outside a sweep, are
    marked as lists; mappings replace their defaults; a group is chosen with and without ``+``. An experiment that is
    chosen by its path is read, and chosen by its name.

    Raises:
        UserError: words that are not UTF-8, or a file that holds no experiment.
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
        elif bare == "method.preset":
            quoted.append(f"++{bare}={value}")  # every method has it, also those whose file does not say so
        elif bare == "experiment":
            quoted.append(f"{bare}={find_experiment(value, config_dir) or value}")
        elif bare == "logger" and "," in value and not value.startswith(("[", "'", '"')):
            quoted.append(f"logger=[{value}]")  # no sweep: results do not depend on where they go
        elif bare in IN_DEFAULTS:
            quoted.append(f"{bare}={value}")
        elif bare == "seed" and "," in value and not multirun and not value.startswith(("[", "'", '"')):
            quoted.append(f"seed=[{value}]")
        elif text_kind(bare) or bare in (*MAPPINGS, *LISTS):
            quoted.append(_quoted(bare, value, partial(find, names=domains) if bare in DOMAINS else known_path))
        elif bare.startswith("hydra."):
            quoted.append(_hydras_own(key, value))
        else:
            quoted.append(argument)
    return quoted


def _quoted(key: str, value: str, known: Known) -> str:
    """A name, a path, a list or a mapping of names in Hydra's grammar; as typed, for the check, if it is broken."""
    try:
        if key in LISTS:
            return quote_lists_of_names(key, value, known)
        if key in MAPPINGS:
            return quote_mappings(key, value)
        return quote(key, value, known) if text_kind(key) else f"{key}={value}"
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
    places = [
        text for text in data if text.partition("=")[0] in ("data", "data.root", "data.domains", "data.image_dir")
    ]
    try:
        values = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(places)}
        if any(override.is_sweep_override() for override in values.values()):
            return ()
        chosen = {key: override.value() for key, override in values.items()}
        folders = [Path(folder) for folder in (config_dir, CONFIG_DIR) if folder is not None]
        name = f"{chosen.get('data', 'synthetic')}.yaml"
        files = [folder / "data" / name for folder in folders]
        files += [path for _, path in plugin_configs("data") if path.name == name]
        section = yaml.safe_load(next(file for file in files if file.is_file()).read_text(encoding="utf-8"))
        section |= {key.removeprefix("data."): value for key, value in chosen.items() if key.startswith("data.")}
        resolved: Any = OmegaConf.to_container(OmegaConf.create(section), resolve=True)
        return available_domains(place(resolved))
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


def place(section: Mapping[str, Any]) -> DataConfig:
    """The part of a data section that says where the domains are."""
    places = {key: section[key] for key in ("name", "root", "domains", "image_dir") if key in section}
    return validate_data({**shipped("shared/data"), **places, "image_size": 64, "classes": None})


def complete_experiment(overrides: Sequence[str], config_dir: str | None = None) -> list[str]:
    """The command line with what an experiment leaves open.

    Without an experiment, what the stage ``adapt`` makes is left as it is unless a method is chosen.

    Without ``source=``, every domain of the data is a source. An option ``method.KEY=VALUE`` may be one of some rows'
    methods alone: it is added to all rows, and ``run_section`` takes it from the others again.

    Faults of the data are left to the check.
    """
    keys = [text.partition("=")[0].lstrip("+") for text in overrides]
    if not any(f"experiment={name}" in overrides for name in read_experiments()):
        plain = "adapt" in keys and "method" not in keys
        return [*overrides, *([f"+method={UNADAPTED}"] if plain else [])]
    pairs = list(zip(keys, overrides, strict=True))
    completed = [f"++{text.lstrip('+')}" if key.startswith("method.") else text for key, text in pairs]
    if "source" not in keys:
        names = domains_at_hand(overrides, config_dir)
        if names:
            completed.append(f"source={','.join(map(hydra_text, names))}")
    return completed


def with_group(overrides: Sequence[str], multirun: bool) -> list[str]:
    """The command line with the group under which dashboards show its runs: the experiment, or what a sweep varies.

    The same words give the same group, so that a sweep that goes on stays in its own.
    """
    pairs = [(key.lstrip("+"), value) for key, _, value in (text.partition("=") for text in overrides)]
    given = dict(pairs)
    if "logger" not in given or "group" in given:
        return list(overrides)
    swept = [f"{key}={value}" for key, value in pairs if multirun and "," in value and value[0] not in "[{'\""]
    experiment = Path(given.get("experiment", "").strip("'\"")).name.removesuffix(".yaml")
    group = experiment or " ".join(swept)[:LONGEST_GROUP]
    return [*overrides, f"group={hydra_text(group)}"] if group else list(overrides)
