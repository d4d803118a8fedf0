"""What must not be mixed in one table: cells whose numbers cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tta_bench.adaptation.provenance import metric_code
from tta_bench.cell import Cell
from tta_bench.launch.experiment_checks import tested_on_faults
from tta_bench.launch.experiments import Plan
from tta_bench.metrics.base import PRIMARY, Metric
from tta_bench.offline.bank import bank_file
from tta_bench.offline.stage import stage_of
from tta_bench.report.cells import name_of, seed_of
from tta_bench.report.model import FinishedCell, Seed, Table
from tta_bench.runtime.paths import shipped
from tta_bench.runtime.values import flat
from tta_bench.schema import DataConfig


def repeat_faults(cells: Sequence[tuple[str, Cell]]) -> list[str]:
    """Cells of one row, source and seed: which of them is the result?"""
    first: dict[tuple[str, str, Seed], Cell] = {}
    faults = []
    for row, cell in cells:
        other = first.setdefault((row, cell.config.source, seed_of(cell)), cell)
        if other is not cell:
            keys = ", ".join(_differing(flat(other.identity()), flat(cell.identity())))
            faults.append(
                f"{name_of(row, cell)} and {other.folder().hash} differ in {keys} alone: "
                f"give {keys} one value, or each value a row of its own"
            )
    return faults


def config_faults(plan: Plan, cells: Sequence[tuple[str, Cell]]) -> list[str]:
    """Keys of protocol, data, network and training that differ without being a choice of the experiment."""
    expected = _comparable(cells[0][1])
    faults = []
    for row, cell in cells[1:]:
        settings = _comparable(cell)
        faults += [
            f"{name_of(row, cell)} has {key}={settings.get(key)}, but {name_of(*cells[0])} has "
            f"{key}={expected.get(key)}: give {key} one value, their numbers cannot be compared"
            for key in _differing(expected, settings)
            # One that only some have comes with another key, the optimiser or the branches, which is compared.
            if key in expected and key in settings and not _on_purpose(key, plan)
        ]
    faults += tested_on_faults([(row, cell.config) for row, cell in cells])
    return faults


def _comparable(cell: Cell) -> dict[str, Any]:
    """Dotted keys and values that all rows share unless the experiment varies them.

    Which images are tested on is never a choice, see :func:`~tta_bench.launch.experiment_checks.tested_on_faults`.
    """
    config = cell.config
    sections = config.model_dump(mode="json", include={"protocol", "predict", "data", "model", "checkpoint"})
    sections["training"] = config.training.content(config.model.branches)
    del sections["training"]["seed"], sections["protocol"]["order"]  # repeats
    sections["protocol"].pop("evaluation", None)
    return flat(sections)


def _on_purpose(key: str, plan: Plan) -> bool:
    """Whether the experiment or the command line chooses this key or its section; a checkpoint is of one source."""
    experiment = plan.experiment
    chosen = {key for row in experiment.rows.values() for key in row} | {*experiment.sweep, "checkpoint"}
    chosen |= {text.partition("=")[0] for text in plan.overrides}
    return any(f"{key}.".startswith(f"{text.lstrip('+')}.") for text in chosen)


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [key for key in dict.fromkeys((*first, *second)) if first.get(key) != second.get(key)]


def summary_faults(finished: Sequence[FinishedCell], metric: Metric) -> list[str]:
    """Finished cells without the metric, or of other models, banks, images or rules than their equals."""
    faults = []
    inputs: dict[str, tuple[str, FinishedCell]] = {}
    images: dict[str, FinishedCell] = {}
    again = "compute both again with force=true"
    kept = f"{again}, which makes no model anew: both use the one that is in results_root then"
    for result in finished:
        summary, config, name = result.summary, result.cell.config, name_of(result.row, result.cell)
        if metric.name not in summary or not _is_present(metric, summary):
            lacks = "has no" if metric.name not in summary else "was scored by other code than the present of"
            remedy = (
                f"'tta-bench evaluate --metrics {metric.name}' takes it from the predictions"
                if metric.from_predictions
                else f"run it again with metrics={metric.name}"
            )
            faults.append(f"{name} {lacks} {metric.name}: {remedy}")
        faults += [
            f"{name} was computed with protocol.{key}={summary['protocol'].get(key)}, not "
            f"{getattr(config.protocol, key, None)}: compute it again with force=true"
            for key in _differing(summary["protocol"], config.protocol.model_dump(mode="json"))
        ]
        other = finished[0]
        unit, expected = (unit_of(metric, each.summary) for each in (result, other))
        if unit != expected:
            faults.append(
                f"{name} has {metric.name} in {unit}, but {name_of(other.row, other.cell)} in {expected}: give all "
                "cells targets whose files tell the distances of pixels, or all cells others"
            )
        for made in _inputs(result):
            expected, other = inputs.setdefault(made.same, (made.sha256, result))
            if made.sha256 != expected:
                faults.append(
                    f"{name} used {made.called} with sha256 {made.sha256[:12]}, but {name_of(other.row, other.cell)} "
                    f"the one with {expected[:12]}: {kept}"
                )
        data = _key(result.cell, "data")
        for target, fingerprint in summary["data"].items():
            other = images.setdefault(f"{target} of {data}", result)
            if other.summary["data"][target] != fingerprint:
                faults.append(
                    f"{name} saw other images of {target} (fingerprint {fingerprint[:12]}) than "
                    f"{name_of(other.row, other.cell)} ({other.summary['data'][target][:12]}): {again}"
                )
    return faults


class _Input(NamedTuple):
    """What a finished cell has used, made once for all cells that ask for the same."""

    called: str
    same: str  # equal for all that is asked for in the same way
    sha256: str


def _inputs(result: FinishedCell) -> Iterator[_Input]:
    """The models and the bank of a finished cell; one that was made of another is the same only of the same."""
    cell, config, summary = result.cell, result.cell.config, result.summary
    common, source = _key(cell, "model", "training", "checkpoint", "data"), summary["source_checkpoint"]["sha256"]

    def asked(*of: Any) -> str:
        return json.dumps([common, *of], sort_keys=True)

    yield _Input("the source model", asked(config.source, *(config.stages or ())), source)
    if "bank" in summary:
        bank = bank_file(config, Path("bank")).name
        yield _Input("a bank of source images", asked(source, bank), summary["bank"])
    routes = {name: model["sha256"] for name, model in summary.get("routes", {}).items()}
    if config.adapt is None:
        yield from (_Input(f"the source model of {name}", asked(name), sha256) for name, sha256 in routes.items())
        return
    stage = [source, stage_of(config, cell.seed), config.stages, config.protocol.evaluation]
    adapted = {name: model["sha256"] for name, model in summary.get("adapted", {}).items()}
    for called, models in ("the adapted model of", adapted), ("the model of stage", routes):
        yield from (_Input(f"{called} {name}", asked(*stage, called, name), sha256) for name, sha256 in models.items())


def unit_of(metric: Metric, summary: Mapping[str, Any]) -> str:
    """``mm`` or ``px``: of distances between surfaces in a finished cell."""
    return str(summary.get("units", {}).get(metric.name, "px"))


def in_unit_of(metric: Metric, summary: Mapping[str, Any]) -> Metric:
    """The metric as a finished cell has it."""
    return metric.in_millimetres if unit_of(metric, summary) == "mm" else metric


def _is_present(metric: Metric, summary: Mapping[str, Any]) -> bool:
    """Whether present code has scored a cell by it; the code of Dice is that of the cell."""
    return metric.name == PRIMARY or summary.get("metrics", {}).get(metric.name) == metric_code(metric.name)


def _key(cell: Cell, *parts: str) -> str:
    """Parts of a cell's identity as text."""
    identity = cell.identity()
    return json.dumps({part: identity.get(part) for part in parts}, sort_keys=True)


def comparable_with_paper(table: Table) -> bool:
    """Whether images, targets, network and protocol are the paper's; else its numbers show the order of rows alone.

    How the source models were trained is left open: that is what a difference to the paper may be due to.
    """
    data = DataConfig.model_validate({**shipped("data/fundus"), "root": "."}).model_dump(mode="json")
    domains = {*data["domains"]}
    return (
        {*_differing(data, table.data)} <= {"root", "seed"}  # the seed is that of generated images
        and table.protocol.get("score_at", "network") == "network"
        and all(
            table.protocol.get(key, value) == value
            for key, value in shipped("protocol/online").items()
            if key != "name"
        )
        and all({*targets} == domains - {source} for source, targets in table.targets.items())
        and all(planned.cell.config.model.name == "resunet34" for planned in table.plan.cells)
    )
