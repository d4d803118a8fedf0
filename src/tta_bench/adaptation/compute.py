"""The experiment: methods along their streams, and what the cells that share these leave behind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from tta_bench.adaptation.outcome import (
    Inputs,
    origins,
    per_image_row,
    per_image_rows,
    predictions_by_target,
    summarise,
)
from tta_bench.adaptation.sharing import Member
from tta_bench.data.domain import Domain
from tta_bench.models.checkpoint import SourceModel
from tta_bench.offline.routing import Routes
from tta_bench.records.predictions import Predictions
from tta_bench.records.scores import ImageRecord
from tta_bench.records.snapshots import SnapshotFile
from tta_bench.runtime.memory import PeakMemory

log = logging.getLogger(__name__)

Follow = Callable[[Callable[[ImageRecord], Mapping[str, Any]], bool], Callable[[ImageRecord], None]]
"""See :meth:`tta_bench.sinks.cells.Followed.begin`."""

Computed = tuple[list[dict[str, Any]], dict[str, Predictions], dict[str, Any]]
"""The rows of ``per_image.csv``, the contents of ``predictions.npz`` and of ``summary.json``."""


def compute(
    members: Sequence[Member],
    domains: Mapping[str, Domain],
    source: SourceModel,
    device: torch.device,
    follow: Sequence[Follow] = (),
    adapted: Mapping[str, SourceModel] = MappingProxyType({}),
    routes: Routes | None = None,
) -> list[Computed]:
    """A fresh state per stream, every target image adapted to, predicted, scored and told of.

    What ``adapted`` has for a target stands in for the source model there, and where there are ``routes``, the model
    that an image is routed to.

    Args:
        members: the cells; several have neither ``adapted`` models nor ``routes``.
        domains: the prepared targets.
        source: the source model.
        device: to run on.
        follow: who is told of the images of each cell.
        adapted: target -> model.
        routes: image -> model.

    Returns:
        What each cell leaves behind.
    """
    # Lightning takes seconds to import: only where something is computed.
    from tta_bench.adaptation.part import parts_of, run_parts, snapshot_key
    from tta_bench.adaptation.progress import progress_bar
    from tta_bench.adaptation.scoring import Scoring
    from tta_bench.adaptation.setup import finish_of
    from tta_bench.adaptation.telling import Telling

    config, first = members[0].config, members[0].folder
    memory = PeakMemory(device)
    parts = parts_of(config, domains, source, adapted, device, routes, len(members))
    method = parts[0].method
    log.info("%s: %s", config.called, method.describe())
    if len(members) > 1:
        log.info("%d cells share batches: %s", len(members), ", ".join(member.folder.hash for member in members))
    inputs = Inputs.of(source, adapted, routes)
    snapshots = SnapshotFile(first.snapshot, snapshot_key(members, domains, inputs, parts))
    resumed, total = snapshots.read(), sum(len(stream) for part in parts for stream in part.groups.streams)
    scored = resumed.records if resumed is not None else ()
    scoring = Scoring(domains, finish_of(config, source), config.metrics, scored, config.protocol.empty)
    if resumed is not None:
        log.info("going on after %d of %d images, where a run before was stopped", len(scoring.records), total)
    tell = [
        begin(partial(per_image_row, member.config, member.seed, domains, routes), resumed is not None)
        for begin, member in zip(follow, members, strict=False)
    ]
    telling = [Telling(scoring, lambda record: tell[record.place.member](record))] if tell else []
    with progress_bar(f"{config.called} {config.source} ->", total, scoring.records) as progress:
        method = run_parts(parts, members, domains, scoring, [*telling, progress], snapshots, resumed)
    if method.skipped:
        log.warning("%d updates were skipped because a loss or gradient was not finite", method.skipped)
    updates = sum(part.groups.images_in_a_row() for part in parts)
    shared = {
        "forwards_per_image": method.network.forwards / updates,
        "backwards_per_image": method.backwards / updates,
        "peak_memory_mb": round(memory.megabytes(), 1),
        **({"packed": len(members)} if len(members) > 1 else {}),
        **origins(config, domains, source, adapted, routes, method),
    }
    return [_outcome(member, number, scoring.records, domains, routes, shared) for number, member in enumerate(members)]


def _outcome(
    member: Member,
    number: int,
    every: Sequence[ImageRecord],
    domains: Mapping[str, Domain],
    routes: Routes | None,
    shared: Mapping[str, Any],
) -> Computed:
    """What one of the cells leaves behind.

    Args:
        member: the cell.
        number: of it among the members.
        every: the records of all of them.
        domains: the prepared targets.
        routes: image -> model.
        shared: entries of ``summary.json`` that are the same for all of them.
    """
    config, seed = member.config, member.seed
    assert config.target is not None
    records = [record for record in every if record.place.member == number]
    rows = per_image_rows(config, seed, domains, routes, records)
    predictions = predictions_by_target(config.target, records)
    summary = {
        "cell": member.folder.hash,
        **summarise(config, seed, domains, records, rows, predictions),
        "skipped_updates": sum(record.skipped for record in records),
        **shared,
    }
    return rows, predictions, summary
