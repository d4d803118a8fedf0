"""Further metrics of a finished cell, from the predictions that it has left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tta_bench.data.domain import Domain
from tta_bench.metrics.base import METRICS, PRIMARY, EmptyRule, Sample
from tta_bench.records.finished import NAMES
from tta_bench.records.predictions import read_predictions
from tta_bench.records.scores import (
    case_scores,
    empty_masks,
    image_scores,
    overall_scores,
    spacing_of,
    target_scores,
    units,
)


def with_metrics(
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    predictions: Path,
    domains: Mapping[str, Domain],
    codes: Mapping[str, str],
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What a computation that asks for these metrics too would leave behind.

    Args:
        summary: of a finished cell.
        rows: of its ``per_image.csv``; columns of other metrics stay as they are.
        predictions: its ``predictions.npz``.
        domains: the prepared targets.
        codes: metric -> digest of its code, for each one to score with; none of probabilities.

    Returns:
        The rows of ``per_image.csv`` and the content of ``summary.json``.

    Raises:
        UserError: the predictions cannot be read, or are those of other images.
    """
    kept = {name: code for name, code in summary.get("metrics", {PRIMARY: ""}).items() if name not in codes}
    last = next(reversed(kept))
    scored: list[dict[str, Any]] = []
    rule: EmptyRule = summary["protocol"].get("empty", "one")
    spaced = all(domains[name].spaced for name in summary["targets"])
    targets, empty = {}, {}
    for name, entry in summary["targets"].items():
        domain = domains[name]
        images = [_typed(row) for row in rows if row["target"] == name]
        shapes = domain.prediction_shapes
        masks = read_predictions(predictions, name, [shapes[row["index"]] for row in images])
        added, emptiness = [], []
        for position, row in enumerate(images):  # the images of the cell, which may be fewer than the domain's
            prediction, truth = torch.from_numpy(masks.mask(position)), domain.truth(row["index"])
            spacing = spacing_of(domain, row["index"], spaced)[1:]
            sample = Sample(prediction, truth, tuple(domain.classes), spacing)
            scores = {metric: METRICS.get(metric).score(sample, rule) for metric in codes}
            added.append(image_scores(scores, domain.classes))
            emptiness.append(sample.emptiness())
        scored += [_after(last, row, new, codes) for row, new in zip(images, added, strict=True)]
        of_cases = case_scores(domain, masks, [row["index"] for row in images], codes, rule, spaced)
        targets[name] = _after(last, entry, target_scores(added, codes, domain.classes), codes) | of_cases
        empty[name] = empty_masks(emptiness, domain.classes)
    changed = _after(last, summary, overall_scores(targets, codes), codes)
    metrics = {**kept, **codes}
    before = {name: unit for name, unit in summary.get("units", {}).items() if name in kept}
    changed |= {"targets": targets, "metrics": metrics, "empty_masks": empty}
    in_millimetres = before | units(codes, spaced)
    return scored, changed | ({"units": in_millimetres} if in_millimetres else {})


def _typed(row: Mapping[str, str]) -> dict[str, Any]:
    """A row as it was before it was text: writing its numbers gives the same digits."""
    return {key: text if key in NAMES or not text else _number(text) for key, text in row.items()}


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _after(
    column: str, before: Mapping[str, Any], new: Mapping[str, Any], replaced: Mapping[str, str]
) -> dict[str, Any]:
    """The mapping with ``new`` behind a column, and without what the replaced metrics had there."""
    after: dict[str, Any] = {}
    for key, value in before.items():
        if key.partition("_")[0] not in replaced:
            after[key] = value
        if key == column:
            after |= new
    return after
