"""Scores finished cells by further metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tta_bench.adaptation.later_metrics import add_metrics, obstacle
from tta_bench.adaptation.provenance import metric_code
from tta_bench.cell import Cell
from tta_bench.data.domain import Domain
from tta_bench.data.prepare import prepared
from tta_bench.errors import UserError
from tta_bench.metrics.base import METRICS, PRIMARY
from tta_bench.runtime.signals import at_stake


class Outcome(NamedTuple):
    """What became of the cells.

    Attributes:
        metrics: what they are scored by.
        scored: how many were.
        before: how many had all of the metrics, by present code.
        unfinished: how many have no results.
        faults: why others were not scored, a sentence each.
    """

    metrics: Sequence[str]
    scored: int
    before: int
    unfinished: int
    faults: Sequence[str]


def evaluate(cells: Iterable[Cell], names: Sequence[str]) -> Outcome:
    """Take metrics from saved predictions, whichever code has computed the cells.

    Args:
        cells: finished or not; each is scored once.
        names: of metrics; every cell has Dice.

    Raises:
        UserError: unknown metrics, those of probabilities or Dice alone; nothing was scored.
    """
    metrics = [METRICS.get(name) for name in dict.fromkeys(name.strip() for name in names if name.strip() != PRIMARY)]
    refused = [
        f"metrics={metric.name} needs probabilities, and a cell keeps masks alone: run the cells with "
        f"metrics=[dice,{metric.name}], which computes them again"
        for metric in metrics
        if not metric.from_predictions
    ]
    if refused or not metrics:
        raise UserError(refused or "every cell has its Dice: name other metrics, see tta-bench list metrics")
    counts = {"scored": 0, "before": 0, "unfinished": 0}
    faults: list[str] = []
    read: dict[str, dict[str, Domain]] = {}
    for cell in {cell.folder().hash: cell for cell in cells}.values():
        try:
            counts[_evaluate(cell, [metric.name for metric in metrics], read)] += 1
        except UserError as error:
            faults += error.faults
    return Outcome([metric.name for metric in metrics], **counts, faults=list(dict.fromkeys(faults)))


def _evaluate(cell: Cell, names: Sequence[str], read: dict[str, dict[str, Domain]]) -> str:
    """Score one cell; images that another cell has needed are taken from ``read``."""
    config, folder = cell.config, cell.folder()
    if folder.finished() is None:
        return "unfinished"
    with folder.locked(), at_stake():
        finished = folder.finished(thoroughly=True)
        if finished is None:
            return "unfinished"
        codes = finished[0].get("metrics", {})
        lacking = [name for name in names if codes.get(name) != metric_code(name)]
        if not lacking:
            return "before"
        faults = [why for name in lacking if (why := METRICS.get(name).lacks(config.data.classes))]
        why = obstacle(lacking, folder)
        if faults or why:
            raise UserError(faults or f"{folder.path}: {why}: run it again with force=true")
        key = f"{config.data.model_dump_json()} {config.protocol.score_at} {cell.targets}"
        if key not in read:
            read[key] = prepared(config, cell.targets)
        domains = read[key]
        changed = [name for name in cell.targets if finished[0]["data"].get(name) != domains[name].fingerprint]
        if changed:
            raise UserError(
                f"{folder.path}: the images of {', '.join(changed)} have changed since it was computed: compute it "
                "again with force=true"
            )
        add_metrics(lacking, folder, finished, domains)
        return "scored"
