"""Metrics of a finished cell that were not asked for when it was computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tta_bench.adaptation.provenance import metric_code
from tta_bench.data.domain import Domain
from tta_bench.metrics.base import METRICS
from tta_bench.records.rescoring import with_metrics
from tta_bench.records.store import CellFolder

Finished = tuple[dict[str, Any], list[dict[str, str]]]
"""A cell's summary and the rows of its ``per_image.csv``."""


def obstacle(names: Sequence[str], folder: CellFolder) -> str | None:
    """Why metrics cannot be taken from what a finished cell has left, as a clause; None if they can."""
    of_probabilities = [name for name in names if not METRICS.get(name).from_predictions]
    if of_probabilities:
        return f"{' and '.join(of_probabilities)} needs probabilities, and a cell keeps masks alone"
    if names and not folder.predictions.is_file():
        return f"there are no predictions to take {', '.join(names)} from"
    return None


def add_metrics(
    names: Sequence[str], folder: CellFolder, finished: Finished, domains: Mapping[str, Domain]
) -> Finished:
    """Score the saved predictions, and write that down beside what was there; the caller holds the cell.

    Args:
        names: of the metrics; there is no :func:`obstacle`.
        folder: of the cell.
        finished: what it holds.
        domains: the prepared targets, which have not changed since.

    Raises:
        UserError: the predictions cannot be read.
    """
    codes = {name: metric_code(name) for name in names}
    rows, summary = with_metrics(*finished, folder.predictions, domains, codes)
    folder.rewrite(rows, summary)
    return folder.finished() or (summary, [])
