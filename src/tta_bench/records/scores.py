"""The scores of predictions: one image, their columns, and their averages as in the paper."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tta_bench.data.domain import Domain
from tta_bench.data.streams import StreamImage
from tta_bench.metrics.base import METRICS, EmptyRule, Sample
from tta_bench.ops.masks import Nested, nested_classes
from tta_bench.records.predictions import Predictions


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
        skipped: how many updates were none; of the images of a batch, the first has them.
    """

    place: StreamImage
    scores: Mapping[str, Sequence[float]]
    prediction: Predictions
    diagnostics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    empty: Sequence[str] = ()
    skipped: int = 0


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


def spacing_of(domain: Domain, index: int, spaced: bool) -> tuple[float, float, float]:
    """From slice to slice, row to row and column to column: millimetres where all targets have them, else pixels."""
    return (domain.spacing(index) if spaced else None) or (1.0, 1.0, 1.0)


def units(metrics: Iterable[str], spaced: bool) -> dict[str, str]:
    """Entry ``units`` of ``summary.json``: the metrics whose distances are in millimetres, not in pixels."""
    return {name: "mm" for name in metrics if spaced and METRICS.get(name).of == "surfaces"}


def case_scores(
    domain: Domain,
    predictions: Predictions,
    images: Sequence[int],
    metrics: Iterable[str],
    empty: EmptyRule = "one",
    spaced: bool = False,
) -> dict[str, float]:
    """Metrics over the whole volume of each case, as means over cases: ``case_<metric>_<class>…``, and ``cases``.

    Args:
        domain: with its masks.
        predictions: of some of its images.
        images: which ones, in their order.
        metrics: names; those of masks and surfaces count.
        empty: the rule for classes without a pixel in a volume.
        spaced: whether distances are in millimetres.

    Returns:
        In the units of the metrics; nothing where images are no slices.
    """
    chosen = {name: METRICS.get(name) for name in metrics if METRICS.get(name).of in ("masks", "surfaces")}
    if domain.cases is None or not chosen:
        return {}
    cases: dict[str, list[tuple[int, int, int]]] = {}
    for position, index in enumerate(images):
        case, number = domain.cases[index]
        cases.setdefault(case, []).append((number, position, index))
    rows = []
    for slices in map(sorted, cases.values()):
        found = [torch.from_numpy(predictions.mask(position)) for _, position, _ in slices]
        true = [domain.truth(index) for *_, index in slices]
        numbers = [number for number, *_ in slices]
        # Without all slices, of one size, there are no distances between them.
        whole = numbers == [*range(numbers[0], numbers[-1] + 1)] and len({each.shape for each in true}) == 1
        masks = [torch.stack(each, 1) if whole else _flat(each) for each in (found, true)]
        sample = Sample(masks[0], masks[1], tuple(domain.classes), spacing_of(domain, slices[0][2], spaced))
        unknown = [math.nan] * len(domain.classes)
        scores = {
            name: metric.score(sample, empty) if whole or metric.of == "masks" else unknown
            for name, metric in chosen.items()
        }
        rows.append(image_scores(scores, domain.classes))
    means = target_scores(rows, chosen, domain.classes)
    return {**{f"case_{key}": value for key, value in means.items()}, "cases": len(cases)}


def _flat(slices: Sequence[Tensor]) -> Tensor:
    """All pixels of masks ``[classes, H, W]`` in a row, ``[classes, 1, 1, pixels]``."""
    return torch.cat([each.flatten(1) for each in slices], 1)[:, None, None]


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
    """Each metric as the unweighted mean over targets, and that of whole cases where all targets have them."""
    names = [*metrics]
    columns = [*names, *(f"case_{name}" for name in names if all(f"case_{name}" in each for each in targets.values()))]
    return {column: _mean(target[column] for target in targets.values()) for column in columns}


def empty_masks(images: Iterable[Sequence[str]], classes: Iterable[str]) -> dict[str, dict[str, int]]:
    """How many images of a target have empty masks: class -> ``both``, ``truth``, ``prediction`` -> images, if any.

    Args:
        images: of each, what :meth:`tta_bench.metrics.base.Sample.emptiness` says.
        classes: of the target.
    """
    of_classes = zip(classes, zip(*images, strict=True), strict=True)
    counts = {name: dict(sorted(Counter(each for each in found if each).items())) for name, found in of_classes}
    return {name: count for name, count in counts.items() if count}
