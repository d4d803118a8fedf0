"""Which code decides the numbers of a cell, and which of it has changed since a cell was computed.

From a few roots (the method, its objectives, the network, the loop over the images) the names that are used are
followed through the modules, and the definitions reached are digested: :mod:`tta_bench.adaptation.linking`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from tta_bench.adaptation.linking import PACKAGE, Definition, Sources, digest
from tta_bench.adaptation.scenarios.base import scenario_of
from tta_bench.methods.base import METHODS, Method
from tta_bench.methods.options import method_options
from tta_bench.metrics.base import METRICS, PRIMARY
from tta_bench.models.checkpoint.load import has_two_copies
from tta_bench.models.pretext import PRETEXT_TASKS
from tta_bench.models.segmentation import NETWORKS
from tta_bench.objectives.base import OBJECTIVES
from tta_bench.offline.base import SYSTEMS
from tta_bench.schema import RunConfig

DOMAIN = Definition("tta_bench.data.domain", "Domain")  # the network's input and the truth, from the prepared images
ROOTS = (
    Definition("tta_bench.adaptation.compute", "compute"),  # the loop over the images, the scores and their averages
    Definition("tta_bench.methods.base", "Method"),
    Definition("tta_bench.metrics.dice"),  # found by its name; further metrics are taken from predictions at any time
    DOMAIN,
)
"""What every cell runs. Prepared images and source models are compared as such, by the hashes in ``summary.json``."""

EMPIRICAL_GRADIENT = Definition("tta_bench.adaptation.empirical_gradient")
CATENORM = Definition("tta_bench.models.catenorm", "CategoricalNorm")
SPOTTUNED = Definition("tta_bench.models.spottuned", "SpotTuned")
CONTINUAL = Definition("tta_bench.offline.continual", "after_stages")
STAGE = (
    Definition("tta_bench.offline.stage", "run_system"),
    Definition("tta_bench.offline.stage", "grounds_of"),  # which images a system sees
    Definition("tta_bench.source.examination", "home_of"),  # and which of the source it does not
    DOMAIN,
)
ROUTING = Definition("tta_bench.offline.routing", "routes_of")
OF_TRAINING = Definition("tta_bench.source.examination", "training_images")
BANK = Definition("tta_bench.offline.bank", "bank_of"), OF_TRAINING, DOMAIN

ACCOMPANIES = {
    *(Definition(f"tta_bench.adaptation.{name}") for name in ("provenance", "linking")),
    Definition("tta_bench.schema"),  # the values are in the hash of the cell
    *(Definition(f"tta_bench.runtime.{name}_section") for name in ("files", "launch", "protocol", "training")),
    Definition("tta_bench.methods.options"),
    Definition("tta_bench.errors"),
    Definition("tta_bench.methods.card"),
    Definition("tta_bench.offline.card"),
    Definition("tta_bench.offline.options"),
    Definition("tta_bench.registry"),
    *(Definition(f"tta_bench.runtime.{name}") for name in ("files", "lightning", "memory", "signals", "transfer")),
    Definition("tta_bench.models.graphs"),  # the same kernels, played again
    Definition("tta_bench.data.prefetching"),  # what is drawn depends on the draw and the image alone
    Definition("tta_bench.records.snapshots"),  # a run that was stopped goes on to the same numbers
    Definition("tta_bench.records.store"),
    EMPIRICAL_GRADIENT,  # looks on; a root where it is asked for
    Definition("tta_bench.records.rescoring"),
    Definition("tta_bench.adaptation.sharing"),
    Definition("tta_bench.adaptation.lockstep"),  # streams do not depend on those beside them
    Definition("tta_bench.adaptation.part", "snapshot_key"),
    Definition("tta_bench.records.versions"),
    Definition("tta_bench.adaptation.progress"),
    Definition("tta_bench.adaptation.resumption"),
    Definition("tta_bench.adaptation.telling"),
}
"""What a cell runs too, and what its numbers do not depend on."""


def code_of(config: RunConfig, *more: Definition) -> dict[str, Any]:
    """Entries of ``summary.json``: ``code``, a digest of all that counts, and ``code_modules``, that of each module.

    Args:
        config: of a run.
        more: what counts beside what every cell runs.
    """
    method, options = METHODS.get(config.method["name"]), method_options(config.method)
    named = frozenset(_strings(asdict(options))).intersection(OBJECTIVES.names())
    heads = [_definition(PRETEXT_TASKS.get(branch).head) for branch in method.branches(options)]
    parts = [_definition(each) for kind in method.components(options) for each in _own_classes(kind)]
    others = [_definition(NETWORKS.get(config.model.name)), _definition(type(scenario_of(config.protocol.reset)))]
    others += [*heads, *parts, *more, *_asked_for(config)]
    if config.adapt is not None:
        others += [_definition(SYSTEMS.get(config.adapt["name"])), *STAGE]
    others += [EMPIRICAL_GRADIENT] if config.diagnostics.empirical_gradient else []
    classes = [_definition(each) for each in _own_classes(method)]
    objectives = [_definition(OBJECTIVES.get(name)) for name in sorted(named)]
    modules = _reached((*ROOTS, *classes, *others, *objectives))
    return {"code": digest(repr(modules)), "code_modules": modules}


def system_code(config: RunConfig) -> str:
    """Digest of all that decides the weights of a run's adapted models, which are made anew where it changes."""
    assert config.adapt is not None
    system, network = _definition(SYSTEMS.get(config.adapt["name"])), _definition(NETWORKS.get(config.model.name))
    return digest(repr(_reached((system, network, *STAGE, *_asked_for(config)))))


def _asked_for(config: RunConfig) -> list[Definition]:
    asked = (ROUTING, config.route), (CATENORM, config.model.norm), (CONTINUAL, config.stages)
    return [root for root, value in (*asked, (SPOTTUNED, has_two_copies(config.checkpoint))) if value]


def bank_code() -> str:
    """Digest of all that decides what is in a bank of source images."""
    return digest(repr(_reached(BANK)))


def change_since(summary: Mapping[str, Any], config: RunConfig) -> str | None:
    """Why the numbers of a finished cell are no longer those of the present code, as a clause; None if they are."""
    now = code_of(config)
    if summary.get("code") == now["code"]:
        return None
    before = summary.get("code_modules")
    if not isinstance(before, Mapping):
        return "it is not known which code made it"
    modules = {*before, *now["code_modules"]}
    changed = sorted(name for name in modules if before.get(name) != now["code_modules"].get(name))
    return f"the code of {', '.join(changed)} changed since"


def metric_codes(config: RunConfig) -> dict[str, str]:
    """Entry ``metrics`` of ``summary.json``: each metric that is asked for -> digest of its code."""
    return {name: metric_code(name) for name in config.metrics}


def unscored(summary: Mapping[str, Any], config: RunConfig) -> list[str]:
    """The metrics beside Dice that a finished cell lacks, or has from other code than the present."""
    before = summary.get("metrics", {})
    return [name for name, code in metric_codes(config).items() if name != PRIMARY and before.get(name) != code]


def staleness(summary: Mapping[str, Any], config: RunConfig) -> str | None:
    """Why a finished cell is not all that is asked for, as a clause; None if it is."""
    lacking = unscored(summary, config)
    return change_since(summary, config) or (f"it has no {' and no '.join(lacking)} yet" if lacking else None)


@cache
def metric_code(name: str) -> str:
    """The digest of a metric's code."""
    root = _definition(METRICS.get(name).function)
    return digest(repr(_sources(frozenset({root.module.partition(".")[0], PACKAGE})).digests([root], {})))


@cache
def _reached(roots: tuple[Definition, ...]) -> dict[str, str]:
    """Module -> digest of what these roots reach in it."""
    tops = frozenset(root.module.partition(".")[0] for root in roots)
    return _sources(tops).digests(roots, {name: _definition(OBJECTIVES.get(name)) for name in OBJECTIVES.names()})


def _own_classes(method: type[Method]) -> list[type]:
    """A method's class and its bases below :class:`Method`."""
    return [each for each in method.__mro__ if each not in Method.__mro__]


@cache
def _sources(tops: frozenset[str]) -> Sources:
    return Sources({top: place for top in sorted(tops) if (place := _place(top)) is not None}, ACCOMPANIES)


def _place(top: str) -> Path | None:
    """Folder of a package or file of a module that is imported; None for one that has none, as in a notebook."""
    module = sys.modules.get(top)
    folders = list(getattr(module, "__path__", []))
    file = folders[0] if folders else getattr(module, "__file__", None)
    return Path(file) if file else None


def _definition(item: Any) -> Definition:
    return Definition(item.__module__, item.__qualname__.partition(".")[0])


def _strings(value: Any) -> Iterator[str]:
    """All texts among the values of options."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)
