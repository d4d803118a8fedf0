"""A table by groups of images: which group is worst, how far it lies behind, and whether a method widens that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tta_bench.data.attributes import Value, attribute
from tta_bench.data.prepare import prepared
from tta_bench.errors import UserError
from tta_bench.report.model import Audit, AuditRow, Table
from tta_bench.report.numbers import paired
from tta_bench.report.statistics import Estimate, paired_difference

PARTS = ("low", "middle", "high")
"""Thirds of the images, by an attribute that is a number."""

Key = tuple[str, str]


def audited(table: Table, name: str, file: Path | None) -> Audit:
    """The audit of a table's finished cells by an attribute of their images.

    Args:
        table: with its plan.
        name: see :func:`tta_bench.data.attributes.attribute`.
        file: likewise.

    Raises:
        UserError: an unknown attribute, images that have changed since, fewer than two groups, or a metric of which no
            value is better.
    """
    if table.metric.direction == "none":
        raise UserError(f"--by {name}: no value of {table.metric.name} is better, so there is no worst group")
    if not table.finished:
        raise UserError(f"--by {name}: no cell of table {table.name} is finished")
    config = table.finished[0].cell.config
    targets = tuple(dict.fromkeys(target for result in table.finished for target in result.cell.targets))
    domains = prepared(config, targets, progress=False)
    changed = [
        target
        for target in targets
        for result in table.finished
        if result.summary["data"].get(target, domains[target].fingerprint) != domains[target].fingerprint
    ]
    if changed:
        raise UserError([f"the images of {each} have changed since: compute again" for each in dict.fromkeys(changed)])
    values = attribute(name, domains, file)
    tested = {key for result in table.finished for key in result.values}
    known = {(target, str(index)): value for (target, index), value in values.items() if (target, str(index)) in tested}
    groups = grouped(known)
    if len(set(groups.values())) < 2:
        raise UserError(f"--by {name}: all images with a value are of one group, so there is nothing to compare")
    return audit(table, name, groups, len(tested) - len(groups))


def grouped(values: Mapping[Key, Value]) -> dict[Key, str]:
    """The group of every image: its text, or the third of all images that its number lies in.

    Equal numbers are of one group.
    """
    numbers = {key: value for key, value in values.items() if isinstance(value, float)}
    if len(numbers) < len(values):
        return {key: str(value) for key, value in values.items()}
    low, high = np.quantile(list(numbers.values()), (1 / 3, 2 / 3), method="inverted_cdf")
    labels = (f"{PARTS[0]} (to {low:.3g})", PARTS[1], f"{PARTS[2]} (above {high:.3g})")
    return {key: labels[int(value > low) + int(value > high)] for key, value in numbers.items()}


def audit(table: Table, name: str, groups: Mapping[Key, str], left_out: int) -> Audit:
    """The audit by groups that are known.

    Args:
        table: with finished cells.
        name: of the attribute.
        groups: image -> its group; at least two.
        left_out: images without a value.
    """
    labels = _ordered(set(groups.values()))
    means = {row.label: _means(table, row.label, groups, labels) for row in table.rows}
    before = means[table.reference]
    rows = []
    for label, mean in means.items():
        worst, best = _ends(mean, table)
        gap = None if worst is None or best is None else abs((mean[best] or 0) - (mean[worst] or 0))
        widening = None if label == table.reference else _widening(table, label, groups, *_ends(before, table))
        rows.append(AuditRow(label, mean, worst, gap, widening))
    counts = {label: sum(group == label for group in groups.values()) for label in labels}
    worst, best = _ends(before, table)
    return Audit(name, counts, left_out, tuple(rows), worst, best)


def _ordered(labels: set[str]) -> list[str]:
    """Thirds in their order, others by their names."""
    return sorted(labels, key=lambda label: (next((k for k, p in enumerate(PARTS) if label.startswith(p)), 9), label))


def _means(table: Table, label: str, groups: Mapping[Key, str], labels: Sequence[str]) -> dict[str, float | None]:
    """Group -> mean over its images of the row; an image's is that over the sources and their seeds."""
    by_image: dict[Key, dict[str, list[float]]] = {}
    for result in table.finished:
        if result.row == label:
            for key, value in result.values.items():
                if key in groups and np.isfinite(value):
                    by_image.setdefault(key, {}).setdefault(result.cell.config.source, []).append(value)
    values: dict[str, list[float]] = {each: [] for each in labels}
    for key, by_source in by_image.items():
        values[groups[key]].append(float(np.mean([np.mean(seeds) for seeds in by_source.values()])))
    return {each: float(np.mean(found)) if found else None for each, found in values.items()}


def _ends(means: Mapping[str, float | None], table: Table) -> tuple[str | None, str | None]:
    """The worst and the best group."""
    known = {label: value for label, value in means.items() if value is not None}
    if len(known) < 2:
        return None, None
    sign = -1 if table.metric.direction == "lower" else 1
    order = sorted(known, key=lambda label: sign * known[label])
    return order[0], order[-1]


def _widening(
    table: Table, label: str, groups: Mapping[Key, str], worst: str | None, best: str | None
) -> Estimate | None:
    """How much more the row gains in the reference's best group than in its worst, with the bootstrap's interval."""
    rows = {name: [result for result in table.finished if result.row == name] for name in (label, table.reference)}
    values = paired(rows[label], rows[table.reference]).values
    gains: dict[str, list[float]] = {}
    sign = -1 if table.metric.direction == "lower" else 1
    for target, images in values.items():
        for index, value in images.items():
            gains.setdefault(groups.get((target, index), ""), []).append(sign * value)
    if worst is None or best is None or not (gains.get(worst) and gains.get(best)):
        return None
    # The mean over two groups of the gains in one and the losses in the other is half of their difference.
    half = paired_difference([gains[best], [-value for value in gains[worst]]])
    return Estimate(*(2 * value for value in half))
