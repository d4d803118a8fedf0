"""A method on a model, with the streams that it lives through: one for all targets, or one for each adapted model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch

from tta_bench.adaptation.counters import Counters
from tta_bench.adaptation.empirical_gradient import EmpiricalGradient
from tta_bench.adaptation.lockstep import lockstep_width
from tta_bench.adaptation.outcome import Inputs
from tta_bench.adaptation.resumption import Resumption
from tta_bench.adaptation.runner import adapt_streams
from tta_bench.adaptation.scenarios.base import scenario_of
from tta_bench.adaptation.scoring import Scoring
from tta_bench.adaptation.setup import method_on
from tta_bench.adaptation.sharing import Member
from tta_bench.data.domain import Domain
from tta_bench.data.streams import LockstepGroups, StreamImage, passes
from tta_bench.methods.base import Method
from tta_bench.models.checkpoint import SourceModel
from tta_bench.offline.routing import Routes
from tta_bench.records.snapshots import Snapshot, SnapshotFile, code_digest
from tta_bench.records.versions import versions
from tta_bench.schema import RunConfig


@dataclass(frozen=True)
class Part:
    """What goes along some streams.

    Attributes:
        method: on a network of its own.
        groups: the streams, those of a group side by side.
    """

    method: Method
    groups: LockstepGroups


def parts_of(
    config: RunConfig,
    domains: Mapping[str, Domain],
    source: SourceModel,
    adapted: Mapping[str, SourceModel],
    device: torch.device,
    routes: Routes | None = None,
    members: int = 1,
) -> list[Part]:
    """The parts of a run, in the order of its targets, or of the centres that images are routed to.

    Args:
        config: with its targets.
        domains: the prepared targets.
        source: the source model.
        adapted: target -> the model that stands in for it there; empty where it serves all targets.
        device: to run on.
        routes: which model serves each image, instead of the source model.
        members: how many cells share the batches; with several, the source model serves all.
    """
    assert config.target is not None
    if routes is not None:
        used = {name: model for name, model in routes.models.items() if routes.counts(name)}
        return [_part(config, domains, config.target, used[name], device, partial(routes.leads, name)) for name in used]
    if not adapted:
        return [_part(config, domains, config.target, source, device, members=members)]
    return [_part(config, domains, (target,), adapted[target], device) for target in config.target]


def _part(
    config: RunConfig,
    domains: Mapping[str, Domain],
    targets: tuple[str, ...],
    model: SourceModel,
    device: torch.device,
    served: Callable[[StreamImage], bool] = lambda _: True,
    members: int = 1,
) -> Part:
    protocol, scenario = config.protocol, scenario_of(config.protocol.reset)
    method = method_on(config, model, device)
    all_of = passes(domains, targets, protocol.order, protocol.evaluation)
    tested = [stream for each in all_of if (stream := tuple(filter(served, each)))]
    streams = [
        tuple(replace(place, member=member) for place in stream)
        for stream in scenario.streams(tested)
        for member in range(members)
    ]
    return Part(method, LockstepGroups(streams, batch=scenario.batch))


def run_parts(
    parts: Sequence[Part],
    members: Sequence[Member],
    domains: Mapping[str, Domain],
    scoring: Scoring,
    looking_on: Sequence[pl.Callback],
    snapshots: SnapshotFile,
    resumed: Snapshot | None,
) -> Method:
    """Every method along its streams, one part after another.

    Args:
        parts: in order.
        members: the cells whose streams these are.
        domains: the prepared targets.
        scoring: looks on first.
        looking_on: further observers, after it.
        snapshots: where the run keeps how far it has come.
        resumed: the snapshot to go on from.

    Returns:
        The last method, which has counted for all of them.
    """
    config, groups = members[0].config, [part.groups for part in parts]
    done = 0
    if resumed is not None:
        done = len(resumed.groups) - 1
        for each, sizes in zip(groups[:done], resumed.groups, strict=False):
            each.sizes = sizes
    for number, part in enumerate(parts[done:], done):
        Counters.of(parts[max(0, number - 1)].method).give(part.method)
        part.groups.width = lockstep_width(config, part.method, domains, part.groups, len(members))
        resumption = Resumption(snapshots, part.method, scoring, groups[: number + 1], resumed)
        first, resumed = 0 if resumed is None else resumed.steps, None
        gradients = [EmpiricalGradient(part.method, domains)] if config.diagnostics.empirical_gradient else []
        adapt_streams(
            part.method,
            domains,
            part.groups,
            seeds=[member.seed for member in members],
            options=[member.options for member in members],
            first=first,
            observers=[*gradients, scoring, *looking_on, resumption],
        )
    return parts[-1].method


def snapshot_key(
    members: Sequence[Member],
    domains: Mapping[str, Domain],
    inputs: Inputs,
    parts: Sequence[Part],
) -> dict[str, Any]:
    """All that must be as it was for a killed run to go on to the numbers of one that was not killed.

    Args:
        members: the cells whose streams the run goes along.
        domains: the prepared targets.
        inputs: the models.
        parts: of the run.
    """
    config, method = members[0].config, parts[0].method
    assert config.target is not None
    device = method.network.source_theta.device
    return {
        "the cells": [member.folder.hash for member in members],
        "the source model": inputs.source,
        **({"the bank": inputs.bank} if inputs.bank is not None else {}),
        "the adapted models": dict(inputs.adapted),
        **({"the routes": dict(inputs.routes)} if inputs.routes else {}),
        "the images": {name: domains[name].fingerprint for name in config.target},
        "the code": code_digest(type(method)),
        "versions": versions(device),
        "the device": str(device),
        "the metrics": list(config.metrics),
    }
