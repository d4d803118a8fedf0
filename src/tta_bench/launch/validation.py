"""Check a composed configuration, whole or in parts: the schema's types and ranges, and all that registries know.

All faults come at once, each with the nearest valid name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from tta_bench.adaptation.scenarios.base import reset_names, scenario_of
from tta_bench.data.readers.base import READERS
from tta_bench.data.streams import passes
from tta_bench.errors import UserError, nearest, nearest_key
from tta_bench.launch.data_section import name_text, reader_faults, unknown_names, value_at
from tta_bench.methods.base import METHODS, MethodOptions
from tta_bench.methods.options import PRESETS, TUNED, method_options
from tta_bench.metrics.base import METRICS
from tta_bench.models.pretext import PRETEXT_TASKS
from tta_bench.models.segmentation import NETWORKS
from tta_bench.offline.bank import needs_bank
from tta_bench.offline.base import SYSTEMS
from tta_bench.offline.options import card_of, system_options
from tta_bench.ops.masks import nested_classes
from tta_bench.ops.shifts import SHIFTS
from tta_bench.runtime.sections import keys_of
from tta_bench.schema import ModelConfig, RunConfig, fault_sentence, validate_section
from tta_bench.search.trials import require_optuna
from tta_bench.sinks.base import sink_faults

NAMES: Mapping[str, Callable[[], Collection[str]]] = {
    "data.name": READERS.names,
    "metrics": METRICS.names,
    "model.name": NETWORKS.names,
    "protocol.reset": reset_names,
}
"""Keys whose value is looked up by name -> the names that there are."""


def validate(composed: Mapping[str, Any]) -> RunConfig:
    """Check a composed configuration.

    Args:
        composed: plain nested mappings, as from ``OmegaConf.to_container(..., resolve=True)``.

    Raises:
        UserError: with every fault found, each naming its key.
    """
    faults: list[str] = []
    config, options = None, None
    try:
        config = RunConfig.model_validate(composed)
    except ValidationError as error:
        # Without a method there is no section to look into; the sentence below says more.
        faults += [fault_sentence(fault, keys_of(RunConfig)) for fault in error.errors() if fault["loc"] != ("method",)]
    faults += unknown_names(composed, NAMES)
    faults += reader_faults(composed.get("data"))
    faults += _network_faults(composed.get("model"))
    faults += _logger_faults(composed.get("logger"))
    faults += _branch_faults(composed)
    try:
        if isinstance(composed.get("adapt"), Mapping):
            system_options(composed["adapt"])
    except UserError as error:
        faults += error.faults
    try:
        options = method_options(composed.get("method") or {})
    except UserError as error:
        faults += error.faults
    if config is not None and options is not None and not faults:
        faults += [*_missing_branches(config, options), *_scenario_faults(config), *_mask_faults(config)]
        faults += [*_tile_faults(config), *_metric_faults(config), *_stage_faults(config), *_shift_faults(config)]
        faults += [*_route_faults(config), *_stages_faults(config), *_tuned_faults(config)]
        faults += _search_faults(config) if config.tune else []
    if config is None or faults:
        raise UserError(faults)
    return config


def validate_model(section: Mapping[str, Any]) -> ModelConfig:
    """The model section alone, for commands that run no method.

    Raises:
        UserError: with every fault found.
    """
    faults = [*unknown_names({"model": section}, NAMES), *_network_faults(section), *_branch_faults({"model": section})]
    if faults:
        raise UserError(faults)
    return validate_section(ModelConfig, section, "model")


def _logger_faults(section: Any) -> list[str]:
    """What the sinks of the logger section say to it; nothing where the schema refuses it."""
    sound = isinstance(section, Mapping) and all(isinstance(options, Mapping) for options in section.values())
    return sink_faults({str(name): options for name, options in section.items()}) if sound else []


def _network_faults(section: Any) -> list[str]:
    """What the network of a model section misses in it; nothing where that is no section or names no network."""
    with suppress(ValidationError):
        config = ModelConfig.model_validate(section)
        if config.name in NETWORKS.names():
            try:
                NETWORKS.get(config.name).check(config)
            except UserError as error:
                return list(error.faults)
    return []


def _branch_faults(composed: Mapping[str, Any]) -> Iterator[str]:
    """Branches that no objective knows, in the network or among the weights of losses."""
    known = PRETEXT_TASKS.names()
    listed = value_at(composed, "model.branches")
    branches = [name_text(name) for name in listed] if isinstance(listed, list | tuple) else []
    for name in branches:
        if name is not None and name not in known:
            yield f"unknown model.branches={name}: {nearest(name, known)}"
    key = "training.branch_weights"
    weights = value_at(composed, key)
    if isinstance(weights, Mapping):
        unknown = (name for name in weights if isinstance(name, str) and name not in known)
        yield from (f"unknown key '{key}.{name}': {nearest_key(f'{key}.{name}', known)}" for name in unknown)


def _missing_branches(config: RunConfig, options: MethodOptions) -> Iterator[str]:
    """A sentence if the method needs branches that the source model does not have."""
    name, present = config.method["name"], config.model.branches
    missing = [branch for branch in METHODS.get(name).branches(options) if branch not in present]
    if missing:
        yield (
            f"method={name} needs a source model with the branch {' and '.join(missing)}: "
            f"train one with model.branches=[{','.join((*present, *missing))}]"
        )


def _scenario_faults(config: RunConfig) -> Iterator[str]:
    """Why the scenario cannot be used with what else is asked for."""
    scenario, name = scenario_of(config.protocol.reset), config.method["name"]
    if scenario.batch == 1:
        return
    shows = f"protocol.reset={config.protocol.reset} shows {scenario.batch} images at a time"
    if not METHODS.get(name).card.takes_batches:
        yield f"{shows}, and method={name} takes one: choose another of them"
    if config.diagnostics.empirical_gradient:
        yield f"{shows}, and diagnostics.empirical_gradient=true compares gradients of one: leave it out"


def _metric_faults(config: RunConfig) -> list[str]:
    """Metrics that need classes which the data do not have."""
    return [fault for name in config.metrics if (fault := METRICS.get(name).lacks(config.data.classes))]


def _tile_faults(config: RunConfig) -> Iterator[str]:
    """Why images that are cut into tiles, each into as many as its size asks for, cannot be used."""
    if config.data.fit != "tile":
        return
    batch = scenario_of(config.protocol.reset).batch
    if batch > 1:
        yield (
            f"protocol.reset={config.protocol.reset} shows {batch} images at a time, and with data.fit=tile "
            "they need not have one size: use data.fit=pad, or another protocol.reset"
        )
    if config.adapt is not None:
        yield (
            f"adapt={config.adapt['name']} learns from batches of images, and with data.fit=tile they need not have "
            "one size: use data.fit=pad"
        )


def _stage_faults(config: RunConfig) -> Iterator[str]:
    """Why the adapt stage cannot be used with what else is asked for."""
    card = card_of(config.adapt)
    if card is None or config.adapt is None:
        return
    name, apart = config.adapt["name"], passes({"A": "1", "B": "1"}, ("A", "B"))
    if len(scenario_of(config.protocol.reset).streams(apart)) < len(apart):
        yield (
            f"protocol.reset={config.protocol.reset} leads one state through all targets, and adapt={name} makes a "
            "model for each: leave one of them out"
        )
    if "source_optimiser" in card.needs and config.checkpoint is not None:
        yield (
            f"adapt={name} goes on with the optimiser of the source training, of which checkpoint={config.checkpoint} "
            "has nothing: leave checkpoint= out, and a source model is trained"
        )
    if "source_optimiser" in card.needs and config.training.keep == "best":
        yield (
            f"adapt={name} goes on with the optimiser as it was after the last epoch of the source training, and "
            "training.keep=best may keep the weights of another: set training.keep=last"
        )
    if card.setting == "sda" and config.protocol.evaluation is None:
        yield (
            f"adapt={name} learns from labels of the target, and would be tested on the same images: "
            "set protocol.evaluation=held_out"
        )


def _route_faults(config: RunConfig) -> Iterator[str]:
    """Why images cannot be routed to several source models with what else is asked for."""
    if config.route is None:
        return
    given = f"route={','.join(config.route)}"
    if not config.route or config.source in config.route:
        yield f"{given}: name domains beside source={config.source}, or leave route= out"
    for key, is_given in (("checkpoint", config.checkpoint), ("adapt", config.adapt), ("tune", config.tune)):
        if is_given:
            yield f"{given} leads to source models that are trained here, and {key}= is for one: leave one of them out"


def _stages_faults(config: RunConfig) -> Iterator[str]:
    """Why a source model cannot be trained stage after stage with what else is asked for."""
    kind = None if config.adapt is None else SYSTEMS.get(config.adapt["name"])
    if config.stages is None:
        if kind is not None and kind.of_stages and config.adapt is not None:
            yield f"adapt={config.adapt['name']} trains one domain after another: give stages=[...], or stages=all"
        return
    given = f"stages={','.join(config.stages)}"
    if not config.stages:
        yield f"{given}: name domains in the order of their training, or leave stages= out"
    for key, is_given in (("checkpoint", config.checkpoint), ("route", config.route), ("tune", config.tune)):
        if is_given:
            yield f"{given} trains a source model stage after stage, without {key}=: leave one of them out"
    if config.protocol.evaluation is None:
        yield f"{given} tests on domains that are trained on: set protocol.evaluation=held_out"
    needs = () if kind is None else kind.card.needs
    if kind is not None and ("target_labels" not in needs or "source_optimiser" in needs):
        name = (config.adapt or {})["name"]
        yield f"{given} has labels and the model before, but adapt={name} needs others: choose another"
    if needs_bank(config):
        yield f"{given} leaves no image of earlier stages, and the method needs a bank of source images: choose another"


def _tuned_faults(config: RunConfig) -> Iterator[str]:
    """Why options that a search has found cannot be used: they are of the source's own model, and chosen by its labels.

    A target is never the source, except with stages; so no image is tested on that a search has scored.
    """
    given = {"adapt": config.adapt, "route": config.route, "stages": config.stages}
    if config.method.get("preset") == TUNED and (others := [f"{key}=" for key, value in given.items() if value]):
        labels = ", on images whose labels the search may have seen" if config.stages else ""
        yield (
            f"method.preset=tuned has options that were searched with the model of source={config.source} alone, and "
            f"{' and '.join(others)} tests other models{labels}: leave one of them out"
        )


def _mask_faults(config: RunConfig) -> Iterator[str]:
    """A sentence if something is asked for that these classes do not have."""
    if config.predict.nest and not nested_classes(config.data.classes):
        yield (
            "predict.nest=true takes away what lies outside the class around it, and no class of data.classes "
            f"({', '.join(config.data.classes)}) has its mask values within another's: leave predict.nest out"
        )
    if config.data.exclusive and config.protocol.threshold != 0.5:
        yield (
            f"protocol.threshold={config.protocol.threshold} is for classes on their own: with data.exclusive=true a "
            "pixel belongs to the most probable class; leave protocol.threshold out"
        )


def _shift_faults(config: RunConfig) -> Iterator[str]:
    """Shifts that there are not, or that cannot be so strong."""
    for name, strengths in config.search.shifts.items() if config.search is not None else ():
        key = f"search.shifts.{name}"
        listed = f"{key}=[{','.join(f'{each:g}' for each in strengths)}]"
        if name not in SHIFTS:
            yield f"unknown key '{key}': {nearest_key(key, SHIFTS)}"
            continue
        outside = [each for each in strengths if each not in SHIFTS[name].strengths]
        if outside:
            yield f"{listed}: {outside[0]:g} must lie in {SHIFTS[name].strengths}"
        if len({*strengths}) < len(strengths):
            yield f"{listed} lists a strength more than once: name it once"


def _search_faults(config: RunConfig) -> Iterator[str]:
    """What does not go together with a search."""
    if config.method.get("preset", PRESETS[0]) != PRESETS[0]:
        yield f"tune=true begins with the default options: leave method.preset={config.method['preset']} out"
    if config.target is not None:
        yield "tune=true reads no target, but shifted images of the source: leave target out"
    if config.adapt is not None:
        yield "tune=true searches with the source model, and not with what adapt= makes of it: leave adapt out"
    if config.logger:
        yield "tune=true is followed by no logger: leave logger out"
    if config.search is None or not any(config.search.shifts.values()):
        yield "search.shifts lists no shift: give at least one a strength, for example search.shifts.gamma=[0.6,1.6]"
    try:
        require_optuna()
    except UserError as error:
        yield from error.faults
