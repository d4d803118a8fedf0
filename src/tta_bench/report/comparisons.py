"""The figures of a table that compare its rows, with what has to be known to read them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tta_bench.report.comparison_figures import Priced, costs_and_gains, heat_map, image_numbers, intervals
from tta_bench.report.model import BN_ONLY, Figure, Row, Table
from tta_bench.report.numbers import Paired, paired
from tta_bench.report.statistics import reliability
from tta_bench.report.swept import swept


def comparisons(table: Table) -> list[Figure]:
    """Where and how surely rows differ from the reference, at what cost; none while nothing can be compared."""
    against = {row.label: row.vs_reference for row in table.rows if row.vs_reference is not None}
    if not against or table.metric.direction == "none":
        return []
    cells = {row.label: [cell for cell in table.finished if cell.row == row.label] for row in table.rows}
    pairs = {label: paired(cells[label], cells[table.reference]) for label in against}
    partial = [label for label, each in pairs.items() if {*each.sources} != {*table.sources}]
    alone = f" Not of all sources: {', '.join(partial)}." if partial else ""
    figures = [_heat_map(table, pairs, alone), _intervals(table, alone)]
    return [
        *figures,
        *swept(table),
        *_costs(table),
        *_reliability(table, pairs, alone.replace("Not of all sources", "Left out, not of all sources")),
    ]


def _heat_map(table: Table, pairs: Mapping[str, Paired], alone: str) -> Figure:
    metric, reference = table.metric, table.reference
    differences = {
        label: {target: _mean(each.values[target]) for target in _in_order(table) if target in each.values}
        for label, each in pairs.items()
    }
    means = {row.label: row.vs_reference.mean for row in table.rows if row.vs_reference is not None}
    caption = (
        f"Each row minus {reference} on the images of a target, of which each counts with its mean over source models "
        f"and seeds. Blue: better than {reference}; vermilion: worse; the stronger, the farther from zero. The average "
        f"is that of the table.{alone}"
    )
    return Figure(f"{metric.title} by row and target", heat_map(differences, means, metric, reference), caption)


def _mean(values: Mapping[str, float]) -> float:
    return float(np.mean([*values.values()]))


def _in_order(table: Table) -> list[str]:
    """The targets in the order of the data set, of which every source lacks one: by their mean place."""
    places: dict[str, list[int]] = {}
    for targets in table.targets.values():
        for place, target in enumerate(targets):
            places.setdefault(target, []).append(place)
    return sorted(places, key=lambda target: float(np.mean(places[target])))


def _intervals(table: Table, alone: str) -> Figure:
    metric = table.metric
    panels = {table.reference: {row.label: row.vs_reference for row in table.rows if row.vs_reference is not None}}
    vs_bn_only = {row.label: row.vs_bn_only for row in table.rows if row.vs_bn_only is not None}
    if vs_bn_only:
        panels[BN_ONLY] = vs_bn_only
    caption = (
        "Mark: average difference; bar: its 95\N{NO-BREAK SPACE}% bootstrap interval over images; filled: p below 0.05 "
        "(Wilcoxon signed-rank test, Holm-corrected). A bar that crosses zero is a difference that these images do not "
        "show; what another training of the source models would change is not in it. "
        f"{'Smallest' if metric.direction == 'lower' else 'Largest'} first.{alone}"
    )
    return Figure(f"Average {metric.title} with intervals", intervals(panels, metric), caption)


def _costs(table: Table) -> list[Figure]:
    """None where what a row costs is not known."""
    rows = {row.label: _priced(row, table) for row in table.rows}
    known = {label: priced for label, priced in rows.items() if priced is not None}
    if len(known) < 2:
        return []
    caption = (
        f"What a row gains over {table.reference}, {table.metric.direction} is better, against forward and backward "
        "passes of the network (left) and time (right, comparable only between cells of the same machine), both on "
        "logarithmic axes. A row has the same height on both sides. Filled: no other row gains as much for less."
    )
    return [Figure("Gain against cost", costs_and_gains(known, table.metric, table.reference), caption)]


def _priced(row: Row, table: Table) -> Priced | None:
    costs = row.costs
    if costs.forwards_per_image is None or costs.backwards_per_image is None or not costs.ms_per_image:
        return None
    if row.label != table.reference and row.vs_reference is None:
        return None
    gain = 0.0 if row.vs_reference is None else row.vs_reference.mean
    return Priced(gain, costs.forwards_per_image + costs.backwards_per_image, costs.ms_per_image)


def _reliability(table: Table, pairs: Mapping[str, Paired], alone: str) -> list[Figure]:
    """Of the rows that have all sources, on the images that all of them have; none with fewer than two of a target."""
    whole = [each for each in pairs.values() if {*each.sources} == {*table.sources}]
    targets = list(dict.fromkeys(target for each in whole for target in each.values))
    shared = {
        target: [
            index for index in whole[0].values.get(target, {}) if all(index in each.values[target] for each in whole)
        ]
        for target in targets
    }
    if not shared or any(len(images) < 2 for images in shared.values()):
        return []
    sign = -1 if table.metric.direction == "lower" else 1
    differences = [
        np.array([[sign * each.values[target][index] for index in images] for each in whole])
        for target, images in shared.items()
    ]
    weights = np.array([[float(each.models[target]) for target in targets] for each in whole])
    measured = reliability(differences, weights)
    caption = (
        f"Bootstrap: how far averages over fewer images than these {measured.images[-1]} scatter. Of every target the "
        "same share is drawn, the same images for all rows. Left: width of the 95\N{NO-BREAK SPACE}% interval of a "
        f"row's difference to {table.reference}, thin lines, and their median. Right: how often rows are in the order "
        f"that all images give; where the lines are far below 100, do not read the order of close rows.{alone}"
    )
    return [Figure("Reliability of the average", image_numbers(measured, table.metric), caption)]
