"""The scores of predictions: one image, their columns, and their averages as in the paper."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tta_bench.data.domain import Domain
from tta_bench.data.streams import StreamImage
from tta_bench.metrics.base import METRICS
from tta_bench.ops.masks import Nested, nested_classes
from tta_bench.records.predictions import Predictions

EMPTY = 1e-6
"""In the Dice of a volume, as in that of an image: two empty masks score 100."""


@dataclass(frozen=True)
class ImageRecord:
    """The scores of one prediction.

    Attributes:
        place: the image.
        scores: metric -> one value per class, in the order of the domain's classes, or that of the image alone.
        prediction: of this image alone, packed at once: as many as a data set has would not fit into memory.
        diagnostics: what the method reports of its update.
        seconds: wall time of adaptation and prediction.
        empty: of every class, see :meth:`tta_bench.metrics.base.Sample.emptiness`.
    """

    place: StreamImage
    scores: Mapping[str, Sequence[float]]
    prediction: Predictions
    diagnostics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    empty: Sequence[str] = ()


def outside_classes(
    predictions: Mapping[str, Predictions], classes: Mapping[str, Sequence[int]]
) -> list[dict[str, Any]]:
    """Where predicted classes leave the classes around them: entry ``outside`` of ``summary.json``.

    Args:
        predictions: of each target.
        classes: name -> mask values.

    Returns:
        For each class that does: its name, that of the one around it, in how many ``images``, and how many ``pixels``
        lie outside ``of`` all that it has.
    """
    names, nested = list(classes), nested_classes(classes)
    counts: dict[Nested, list[int]] = {pair: [0, 0, 0] for pair in nested}
    masks = (part.mask(0) for each in predictions.values() for part in each.each()) if nested else ()
    for mask in masks:
        for inner, outer in nested:
            beyond = int((mask[inner] & ~mask[outer]).sum())
            found = counts[inner, outer]
            found[:] = found[0] + (beyond > 0), found[1] + beyond, found[2] + int(mask[inner].sum())
    return [
        {"class": names[inner], "around": names[outer], "images": images, "pixels": pixels, "of": total}
        for (inner, outer), (images, pixels, total) in counts.items()
        if images
    ]


def image_scores(scores: Mapping[str, Sequence[float]], classes: Iterable[str]) -> dict[str, float]:
    """Columns of an image: ``<metric>_<class>…,<metric>`` of each metric, the last the mean over classes.

    A metric that compares classes has the last alone.
    """
    columns: dict[str, float] = {}
    for metric, values in scores.items():
        if METRICS.get(metric).per_class:
            columns |= {f"{metric}_{name}": value for name, value in zip(classes, values, strict=True)}
        columns[metric] = _mean(values)
    return columns


def _mean(values: Iterable[float]) -> float:
    """Over what has a value; NaN where nothing has one."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def image_row(record: ImageRecord, domain: Domain, **of_cell: Any) -> dict[str, Any]:
    """A row of ``per_image.csv``.

    Args:
        record: of an image.
        domain: it is of.
        of_cell: its source, method and seed.
    """
    return {
        "source": of_cell["source"],
        "target": domain.name,
        "method": of_cell["method"],
        "seed": of_cell["seed"],
        "index": record.place.index,
        "image": domain.image_names[record.place.index],
        **case_columns(domain, record.place.index),
        **image_scores(record.scores, domain.classes),
        "position": record.place.position,
        **record.diagnostics,
        "seconds": round(record.seconds, 6),
    }


def case_columns(domain: Domain, index: int) -> dict[str, Any]:
    """The columns ``case`` and ``slice`` of an image; none where images are no slices."""
    return {} if domain.cases is None else dict(zip(("case", "slice"), domain.cases[index], strict=True))


def case_scores(domain: Domain, predictions: Predictions, images: Sequence[int]) -> dict[str, float]:
    """Dice over the whole volume of each case, as the mean over cases: ``case_dice_<class>…,case_dice`` and ``cases``.

    Args:
        domain: with its masks.
        predictions: of some of its images.
        images: which ones, in their order.

    Returns:
        Percent; nothing where images are no slices.
    """
    if domain.cases is None:
        return {}
    counts: dict[str, np.ndarray] = {}
    for position, index in enumerate(images):
        case, _ = domain.cases[index]
        prediction, truth = predictions.mask(position), domain.truth(index).numpy()
        both = np.stack([(prediction & truth).sum((1, 2)), prediction.sum((1, 2)) + truth.sum((1, 2))])
        counts[case] = counts[case] + both if case in counts else both
    overlap, areas = np.moveaxis(np.stack(list(counts.values())).astype(np.float64), 1, 0)  # [cases, classes] each
    means = (100 * (2 * overlap + EMPTY) / (areas + EMPTY)).mean(0).tolist()
    of_classes = {f"case_dice_{name}": value for name, value in zip(domain.classes, means, strict=True)}
    return {**of_classes, "case_dice": sum(means) / len(means), "cases": len(counts)}


def target_scores(
    rows: Sequence[Mapping[str, Any]], metrics: Iterable[str], classes: Iterable[str]
) -> dict[str, float]:
    """The same columns of a target: the mean over images of each class, then over classes.

    What has no value is left out of a mean.
    """
    entries: dict[str, float] = {}
    for metric in metrics:
        columns = [f"{metric}_{name}" for name in classes] if METRICS.get(metric).per_class else [metric]
        means = {column: _mean(row[column] for row in rows) for column in columns}
        entries |= {**means, metric: _mean(means.values())}
    return entries


def overall_scores(targets: Mapping[str, Mapping[str, Any]], metrics: Iterable[str]) -> dict[str, float]:
    """Each metric as the unweighted mean over targets."""
    return {metric: _mean(target[metric] for target in targets.values()) for metric in metrics}


def empty_masks(images: Iterable[Sequence[str]], classes: Iterable[str]) -> dict[str, dict[str, int]]:
    """How many images of a target have empty masks: class -> ``both``, ``truth``, ``prediction`` -> images, if any.

    Args:
        images: of each, what :meth:`tta_bench.metrics.base.Sample.emptiness` says.
        classes: of the target.
    """
    of_classes = zip(classes, zip(*images, strict=True), strict=True)
    counts = {name: dict(sorted(Counter(each for each in found if each).items())) for name, found in of_classes}
    return {name: count for name, count in counts.items() if count}
