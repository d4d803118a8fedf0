"""What must not be mixed in one table: cells whose numbers cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tta_bench.cell import Cell
from tta_bench.launch.experiments import Plan
from tta_bench.metrics.base import Metric
from tta_bench.report.cells import name_of, seed_of
from tta_bench.report.model import FinishedCell, Seed


def repeat_faults(cells: Sequence[tuple[str, Cell]]) -> list[str]:
    """Cells of one row, source and seed: which of them is the result?"""
    first: dict[tuple[str, str, Seed], Cell] = {}
    faults = []
    for row, cell in cells:
        other = first.setdefault((row, cell.config.source, seed_of(cell)), cell)
        if other is not cell:
            keys = ", ".join(_differing(_flat(other.identity()), _flat(cell.identity())))
            faults.append(
                f"{name_of(row, cell)} and {other.folder().hash} differ in {keys} alone: "
                f"give {keys} one value, or each value a row of its own"
            )
    return faults


def config_faults(plan: Plan, cells: Sequence[tuple[str, Cell]]) -> list[str]:
    """Keys of protocol, data, network and training that differ without being a choice of the experiment."""
    row, first = cells[0]
    expected = _comparable(first)
    faults = []
    for other_row, cell in cells[1:]:
        found = _comparable(cell)
        for key in _differing(expected, found):
            if not _on_purpose(key, plan):
                faults.append(
                    f"{name_of(other_row, cell)} has {key}={found.get(key)}, but {name_of(row, first)} has "
                    f"{key}={expected.get(key)}: give {key} one value, their numbers cannot be compared"
                )
    targets: dict[str, tuple[str, Cell]] = {}
    for other_row, cell in cells:
        row, first = targets.setdefault(cell.config.source, (other_row, cell))
        if cell.targets != first.targets:
            faults.append(
                f"{name_of(other_row, cell)} has target={','.join(cell.targets)}, but {name_of(row, first)} has "
                f"target={','.join(first.targets)}: give target one value"
            )
    return faults


def _comparable(cell: Cell) -> dict[str, Any]:
    """Dotted keys and values that all rows share unless the experiment varies them."""
    config = cell.config
    sections = config.model_dump(mode="json", include={"protocol", "data", "model", "checkpoint"})
    sections["training"] = config.training.content(config.model.branches)
    del sections["training"]["seed"], sections["protocol"]["order"]  # repeats
    return _flat(sections)


def _on_purpose(key: str, plan: Plan) -> bool:
    """Whether the experiment or the command line chooses this key or its section; a checkpoint is of one source."""
    experiment = plan.experiment
    chosen = {key for row in experiment.rows.values() for key in row} | {*experiment.sweep, "checkpoint"}
    chosen |= {text.partition("=")[0] for text in plan.overrides}
    return any(key == one or key.startswith(f"{one}.") for one in (text.lstrip("+") for text in chosen))


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [key for key in dict.fromkeys((*first, *second)) if first.get(key) != second.get(key)]


def summary_faults(finished: Sequence[FinishedCell], metric: Metric) -> list[str]:
    """Finished cells without the metric, or of other source models, images or rules than their equals."""
    faults = []
    models: dict[str, FinishedCell] = {}
    images: dict[str, FinishedCell] = {}
    for one in finished:
        config, name = one.cell.config, name_of(one.row, one.cell)
        again = "compute one of them again with force=true"
        if metric.name not in one.summary:
            faults.append(f"{name} has no {metric.name}: run it again with metrics={metric.name}")
        changed = _differing(one.summary["protocol"], config.protocol.model_dump(mode="json"))
        faults += [
            f"{name} was computed with protocol.{key}={one.summary['protocol'].get(key)}, not "
            f"{getattr(config.protocol, key, None)}: compute it again with force=true"
            for key in changed
        ]
        other = models.setdefault(_key(one.cell, "source", "model", "training", "checkpoint", "data"), one)
        sha256, expected = (each.summary["source_checkpoint"]["sha256"] for each in (one, other))
        if sha256 != expected:
            faults.append(
                f"{name} used the source model with sha256 {sha256[:12]}, but {name_of(other.row, other.cell)} the one "
                f"with {expected[:12]}: {again}"
            )
        data = _key(one.cell, "data")
        for target, fingerprint in one.summary["data"].items():
            other = images.setdefault(f"{target} of {data}", one)
            if other.summary["data"][target] != fingerprint:
                faults.append(
                    f"{name} saw other images of {target} (fingerprint {fingerprint[:12]}) than "
                    f"{name_of(other.row, other.cell)} ({other.summary['data'][target][:12]}): {again}"
                )
    return faults


def _key(cell: Cell, *parts: str) -> str:
    """Parts of a cell's identity as text."""
    identity = cell.identity()
    return json.dumps({part: identity.get(part) for part in parts}, sort_keys=True)
