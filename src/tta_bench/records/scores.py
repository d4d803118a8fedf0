"""The scores of predictions: one image, their columns, and their averages as in the paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tta_bench.data.domain import Domain
from tta_bench.data.streams import StreamImage
from tta_bench.records.predictions import Predictions

EMPTY = 1e-6
"""In the Dice of a volume, as in that of an image: two empty masks score 100."""


@dataclass(frozen=True)
class ImageRecord:
    """The scores of one prediction.

    Attributes:
        place: the image.
        scores: metric -> one value per class, in the order of the domain's classes.
        prediction: of this image alone, packed at once: as many as a data set has would not fit into memory.
        diagnostics: what the method reports of its update.
        seconds: wall time of adaptation and prediction.
    """

    place: StreamImage
    scores: Mapping[str, Sequence[float]]
    prediction: Predictions
    diagnostics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def image_scores(scores: Mapping[str, Sequence[float]], classes: Iterable[str]) -> dict[str, float]:
    """Columns of an image: ``<metric>_<class>…,<metric>`` of each metric, the last the mean over classes."""
    columns: dict[str, float] = {}
    for metric, values in scores.items():
        columns |= {f"{metric}_{name}": value for name, value in zip(classes, values, strict=True)}
        columns[metric] = sum(values) / len(values)
    return columns


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


def case_scores(domain: Domain, predictions: Predictions) -> dict[str, float]:
    """Dice over the whole volume of each case, as the mean over cases: ``case_dice_<class>…,case_dice`` and ``cases``.

    Args:
        domain: with its masks.
        predictions: of all its images, in their order.

    Returns:
        Percent; nothing where images are no slices.
    """
    if domain.cases is None:
        return {}
    counts: dict[str, np.ndarray] = {}
    for index, (case, _) in enumerate(domain.cases):
        prediction, truth = predictions.mask(index), domain.label(index).numpy()
        both = np.stack([(prediction & truth).sum((1, 2)), prediction.sum((1, 2)) + truth.sum((1, 2))])
        counts[case] = counts[case] + both if case in counts else both
    overlap, areas = np.moveaxis(np.stack(list(counts.values())).astype(np.float64), 1, 0)  # [cases, classes] each
    means = (100 * (2 * overlap + EMPTY) / (areas + EMPTY)).mean(0).tolist()
    of_classes = {f"case_dice_{name}": value for name, value in zip(domain.classes, means, strict=True)}
    return {**of_classes, "case_dice": sum(means) / len(means), "cases": len(counts)}


def target_scores(
    rows: Sequence[Mapping[str, Any]], metrics: Iterable[str], classes: Iterable[str]
) -> dict[str, float]:
    """The same columns of a target: the mean over images of each class, then over classes."""
    entries: dict[str, float] = {}
    for metric in metrics:
        means = {f"{metric}_{name}": sum(row[f"{metric}_{name}"] for row in rows) / len(rows) for name in classes}
        entries |= {**means, metric: sum(means.values()) / len(means)}
    return entries


def overall_scores(targets: Mapping[str, Mapping[str, Any]], metrics: Iterable[str]) -> dict[str, float]:
    """Each metric as the unweighted mean over targets."""
    return {metric: sum(target[metric] for target in targets.values()) / len(targets) for metric in metrics}
