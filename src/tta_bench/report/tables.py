"""A table from the cells of a plan, finished or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tta_bench.errors import UserError, nearest
from tta_bench.launch.experiments import Plan
from tta_bench.metrics.base import Metric
from tta_bench.metrics.dice import dice_score
from tta_bench.records.examination import examination_of
from tta_bench.report.cells import distinct_cells, own_domain, read_cells, seed_of
from tta_bench.report.checks import config_faults, in_unit_of, repeat_faults, summary_faults
from tta_bench.report.model import BN_ONLY, FinishedCell, Seed, SourceModelRecord, Table
from tta_bench.report.numbers import comparisons, row_of
from tta_bench.report.transfer import followed_stages, stages_of
from tta_bench.source.train import branch_cost, branchless_twin, lacks_twin, read_if_sound


def build_table(plan: Plan, reference: str | None = None, metric: Metric = dice_score) -> Table:
    """Read the cells of a plan, finished or not, and compute all numbers of its table.

    Args:
        plan: of an experiment.
        reference: label of the row to compare with; None: that of the experiment.
        metric: what the table shows.

    Raises:
        UserError: an unknown reference, or cells that lack the metric or whose numbers cannot be compared, all of them
            named.
    """
    labels = tuple(dict.fromkeys(planned.row for planned in plan.cells))
    reference = plan.experiment.reference if reference is None else reference
    if reference not in labels:
        raise UserError(f"there is no row '{reference}' to compare with: {nearest(reference, labels)}")
    cells = distinct_cells(plan)
    finished, missing = read_cells(cells, metric)
    faults = [*repeat_faults(cells), *config_faults(plan, cells), *summary_faults(finished, metric)]
    if faults:
        raise UserError(faults)
    metric = in_unit_of(metric, finished[0].summary) if finished else metric
    configs = [cell.config for _, cell in cells]
    followed = followed_stages(configs)
    last = [cell for _, cell in cells if cell.config.stages not in followed]
    compared = [result for result in finished if result.cell.config.stages not in followed]
    sources = tuple(dict.fromkeys(cell.config.source for cell in last))
    vs_reference = comparisons(labels, reference, compared)
    # The reference is left out: bn_only minus the reference is in ``vs_reference`` already.
    methods = [label for label in labels if label != reference]
    vs_bn_only = comparisons(methods, BN_ONLY, compared) if reference != BN_ONLY else {}
    rows = []
    for label in labels:
        row = row_of(label, metric, plan, sources, cells, compared)
        rows.append(replace(row, vs_reference=vs_reference.get(label), vs_bn_only=vs_bn_only.get(label)))
    protocol = _common([config.protocol.model_dump(mode="json") for config in configs])
    empty = _common([{"empty": config.protocol.empty} for config in configs])
    data = _common([config.data.model_dump(mode="json") for config in configs])
    seeds = sorted({seed_of(cell) for _, cell in cells}, key=_seed_order)
    drawn = {seed[:2] for seed in seeds if seed.adaptation is not None}
    return Table(
        name=plan.experiment.name,
        description=plan.experiment.description,
        metric=metric,
        rows=tuple(rows),
        reference=reference,
        sources=sources,
        seeds=tuple(seed for seed in seeds if seed.adaptation is not None or seed[:2] not in drawn),
        targets={cell.config.source: cell.targets for cell in last},
        classes=tuple(configs[0].data.classes) if metric.per_class else (),
        missing=tuple(missing),
        protocol=protocol | empty,
        data=data,
        protocol_hash=_protocol_hash(protocol, data),
        source_models=_source_models(finished),
        versions=_distinct(result.summary["versions"] for result in finished),
        plan=plan,
        finished=tuple(compared),
        stages=stages_of(configs),
        earlier=tuple(result for result in finished if result.cell.config.stages in followed),
    )


def _seed_order(seed: Seed) -> tuple[int, int, int]:
    return seed.training, seed.order, -1 if seed.adaptation is None else seed.adaptation


def _common(sections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A section of all cells; where they differ, a tuple of the values in order of appearance."""
    common = {}
    for key in dict.fromkeys(key for section in sections for key in section):
        values = _distinct(section.get(key) for section in sections)
        common[key] = values[0] if len(values) == 1 else values
    return common


def _distinct(values: Iterable[Any]) -> tuple[Any, ...]:
    """Values, of which some may not be hashable, once each."""
    return tuple({json.dumps(value, sort_keys=True): value for value in values}.values())


def _protocol_hash(protocol: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """See :class:`Table`; a name and a folder are of one machine, the rules and images are not."""
    content = {
        "protocol": {key: value for key, value in protocol.items() if key != "name"},
        "data": {key: value for key, value in data.items() if key != "root"},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _source_models(finished: Sequence[FinishedCell]) -> tuple[SourceModelRecord, ...]:
    """Each source model once, with what its branches cost where that is known."""
    models = {}
    for result in finished:
        path = result.summary["source_checkpoint"]["path"]
        models[own_domain(result.cell.config), result.seed.training, path] = result
    records = []
    for (source, training_seed, path), result in sorted(models.items()):
        checkpoint, cost, unknown = None, None, False
        if result.cell.config.model.branches and Path(path).exists():
            checkpoint = read_if_sound(Path(path))
        if checkpoint is not None:
            twin = branchless_twin(checkpoint, result.cell.config.results_root)
            cost, unknown = branch_cost(checkpoint, twin), lacks_twin(checkpoint, twin)
        file = {key: result.summary["source_checkpoint"][key] for key in ("path", "sha256", "dice_in_domain")}
        found = examination_of(result.summary)
        records.append(
            SourceModelRecord(source, training_seed, **file, branch_cost=cost, lacks_twin=unknown, examination=found)
        )
    return tuple(records)
