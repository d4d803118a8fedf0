"""What dashboards are told of a cell and of the training of a source model: name, group, tags, configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from functools import cache
from typing import Any

import yaml

from tta_bench.data.readers.base import available_domains
from tta_bench.errors import UserError
from tta_bench.methods.base import GradientOptions
from tta_bench.methods.options import default_options, method_options
from tta_bench.offline.options import default_section
from tta_bench.offline.rights import rights_of
from tta_bench.runtime.paths import CONFIG_DIR, shipped
from tta_bench.runtime.values import flat, typed
from tta_bench.schema import RunConfig
from tta_bench.sinks.base import About

SHORT = {"learning_rate": "lr", "batch_size": "batch"}
"""Names of options, as one writes them beside a curve."""

AMBIGUOUS = {*RunConfig.model_fields, *(field.name for field in fields(GradientOptions))}
"""Keys of a run or of most methods: those of a section that are called the same have its name before them."""

_NAMES = {"root", "classes", "domains", "shades"}
"""Of a data section: the user's own, too long for a name; all of it is in the configuration."""

WEAK = "WEAK SOURCE MODEL"
"""Begins the name of a run whose numbers say little about adaptation."""


def about_cell(config: RunConfig, seed: int, key: str, weak: bool = False) -> About:
    """Of a cell.

    Args:
        config: with its targets.
        seed: of the adaptation.
        key: its hash.
        weak: whether its source model is too weak to adapt.
    """
    weakness, seeded = [f"{WEAK}:"] * weak, [f"seed={seed}"] * (seed > 0)
    learned = f"stages={','.join(config.stages)}" if config.stages else f"source={','.join(config.sources)}"
    name = " ".join([*weakness, config.called, *changes(config), learned, *_named_targets(config), *seeded])
    content = config.model_dump(mode="json", exclude={"logger", "force", "group"})
    content["method"] = {**config.method, **asdict(method_options(config.method))}
    content |= {"called": config.called, "seed": seed, "cell": key}
    return About(key, name, "cell", config.group, [*_tags(config), *([WEAK.lower()] * weak)], content)


def about_training(config: RunConfig, key: str) -> About:
    """Of the training of a source model; ``key`` is that of its folder."""
    changes = [*_section_changes(config, "model"), *_section_changes(config, "training")]
    name = " ".join([f"source model {config.source}", *changes])
    content = config.model_dump(mode="json", include={"source", "data", "model", "training"})
    return About(key, name, "training", config.group, _tags(config), {**content, "source_model": key})


def about_stage(config: RunConfig, target: str, key: str) -> About:
    """Of the making of the adapted model of a target; ``key`` is that of its folder."""
    assert config.adapt is not None
    name = " ".join([config.adapt["name"], *_adapt_changes(config), config.source, "->", target])
    content = config.model_dump(mode="json", include={"adapt", "source", "data", "model", "training"})
    return About(
        key, name, "training", config.group, _tags(config), {**content, "target": target, "adapted_model": key}
    )


def about_report(table: str, protocol_hash: str, overrides: Sequence[str], more: Sequence[str] = ()) -> About:
    """Of a table: one run per table, protocol, and what else it shows than Dice, which every report of it replaces."""
    config = {"table": table, "protocol_hash": protocol_hash, "overrides": list(overrides), "shown": list(more)}
    key, name = "-".join(["report", table, protocol_hash, *more]), " ".join(["table", table, *more])
    return About(key, name, "report", table, [table], config)


def _named_targets(config: RunConfig) -> list[str]:
    """The targets, unless they are all there are, or those of the stages."""
    named = [f"target={','.join(config.target or ())}"]
    if config.stages:
        return []
    with suppress(UserError):  # the images are not here any more
        return named if {*available_domains(config.data)} - {*config.sources} - {*(config.target or ())} else []
    return named


def _tags(config: RunConfig) -> list[str]:
    """Data set, source, setting, protocol, network, and the table or sweep if there is one; W&B takes 64 letters."""
    setting = rights_of(config).setting
    tags = [config.data.name, *(f"source {name}" for name in config.stages or config.sources), f"setting {setting}"]
    tags += [config.protocol.name, config.model.name, config.group or ""]
    return list(dict.fromkeys(tag[:64] for tag in tags if tag))


def changes(config: RunConfig) -> Iterator[str]:
    """What differs from the defaults of all that decides numbers, but the names of domains, classes and folders."""
    preset = {key: config.method[key] for key in ("preset",) if key in config.method}
    if preset.get("preset") not in (None, "uniform"):
        yield f"preset={preset['preset']}"
    yield from _differences(
        asdict(method_options(config.method)), asdict(default_options(config.method["name"], **preset))
    )
    yield from _adapt_changes(config)
    if config.checkpoint is not None:
        yield f"checkpoint={config.checkpoint.name}"
    for section in ("protocol", "data", *(() if config.checkpoint else ("model", "training"))):
        yield from _section_changes(config, section)
    own = {"precision": config.precision, "predict": config.predict.model_dump()}
    own["diagnostics"] = {"empirical_gradient": config.diagnostics.empirical_gradient}
    yield from _differences(own, _run_defaults())


def _adapt_changes(config: RunConfig) -> Iterator[str]:
    """Options of the system before the test: those of the method may be called the same."""
    if config.adapt is not None:
        differing = _differences(config.adapt, default_section(config.adapt["name"]))
        yield from (f"adapt.{each}" for each in differing)


def _section_changes(config: RunConfig, section: str) -> Iterator[str]:
    """A choice other than the default one by its name, and keys that differ from the file of the choice."""
    values = getattr(config, section).model_dump(mode="json", exclude=_NAMES)
    if {section: values["name"]} not in _run_defaults()["defaults"]:
        yield f"{section}={values['name']}"
    yield from _differences(values, {"branches": [], **shipped(f"{section}/{values['name']}")}, section)


@cache
def _run_defaults() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CONFIG_DIR / "config.yaml").read_text(encoding="utf-8"))
    return content


def _differences(values: Mapping[str, Any], usual: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """``name=value`` of what the usual has too, but as another value; ambiguous names with their section."""
    before = flat(usual)
    for key, value in flat(values).items():
        as_list = list(value) if isinstance(value, tuple) else value
        other = list(before[key]) if isinstance(before.get(key), tuple) else before.get(key)
        if key in before and as_list != other and not str(other).startswith("${"):
            leaf = key.rpartition(".")[2]
            place = f"{section}." if section and leaf in AMBIGUOUS else ""
            yield f"{place}{SHORT.get(leaf, leaf)}={typed(as_list)}"
