"""The numbers of a table: means of rows, and differences between them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

from tta_bench.cell import Cell
from tta_bench.errors import UserError
from tta_bench.launch.experiments import Plan
from tta_bench.methods.options import PRESETS, TUNED, default_options, method_options
from tta_bench.metrics.base import PRIMARY, Metric
from tta_bench.offline.rights import rights_of
from tta_bench.report.cells import seed_of
from tta_bench.report.model import (
    AVERAGE,
    Comparison,
    Costs,
    FinishedCell,
    ImageKey,
    Row,
    Seed,
    SourceResult,
    repeated_by,
)
from tta_bench.report.statistics import holm, mean_and_std, paired_difference, signed_rank_p
from tta_bench.runtime.names import distinct
from tta_bench.schema import UNADAPTED, RunConfig


def row_of(
    label: str,
    metric: Metric,
    plan: Plan,
    sources: Sequence[str],
    cells: Sequence[tuple[str, Cell]],
    finished: Sequence[FinishedCell],
) -> Row:
    """A row without its comparisons."""
    planned = [cell for row, cell in cells if row == label]
    done = [result for result in finished if result.row == label]
    results = {
        source: _source_result(
            [seed_of(cell) for cell in planned if cell.config.source == source],
            [result for result in done if result.cell.config.source == source],
            metric,
        )
        for source in sources
    }
    average = _average(results, done, metric)
    mean = distinct(AVERAGE, sources)
    paper = plan.experiment.paper.get(label, {}) if metric.name == PRIMARY else {}
    printed = {mean if key == AVERAGE else key: value for key, value in paper.items()}
    same_sources = {*printed} == {*sources, mean}
    paper = {column: value for column, value in printed.items() if column in sources or same_sources}
    measured = {source: result.value for source, result in results.items()} | {mean: average.value}
    return Row(
        label=label,
        method=planned[0].config.called,
        control=label in plan.experiment.controls,
        results=results,
        average=average,
        paper=paper,
        minus_paper={
            column: value - paper[column] for column, value in measured.items() if value is not None and column in paper
        },
        vs_reference=None,
        vs_bn_only=None,
        costs=_costs([result.summary for result in done]),
        skipped_updates=sum(result.summary["skipped_updates"] for result in done),
        options=options_of(planned),
        **_seen(planned[0].config),
        retained=_retained([result.summary for result in done if result.cell.config.stages is None]),
    )


def _seen(config: RunConfig) -> dict[str, Any]:
    """The fields of a row that say what it may see, and whose it is."""
    try:
        return rights_of(config)._asdict()
    except UserError:  # of a plug-in that is gone
        return {"setting": "unknown"}


def options_of(cells: Sequence[Cell]) -> str:
    """Where the options of a row's cells are from, see :class:`~tta_bench.report.model.Row`."""
    origins = {_origin(cell) for cell in cells}
    return origins.pop() if len(origins) == 1 else "own"


def _origin(cell: Cell) -> str:
    name, preset = cell.config.method["name"], cell.config.method.get("preset", PRESETS[0])
    if preset == TUNED:
        return TUNED
    try:
        if method_options(cell.config.method) != default_options(name, preset=preset):
            return "own"
    except UserError:  # of a plug-in whose file is gone
        return "own"
    return "default" if preset == PRESETS[0] else str(preset)


def _source_result(planned: Sequence[Seed], finished: Sequence[FinishedCell], metric: Metric) -> SourceResult:
    seeds = tuple(result.seed for result in finished)
    missing = tuple(seed for seed in planned if seed not in seeds)
    if not finished:
        return SourceResult(None, None, 0, (), missing, {})
    scores = {result.seed: float(result.summary[metric.name]) for result in finished}
    prefix = f"{metric.name}_"
    targets = [target for result in finished for target in result.summary["targets"].values()]
    classes = {
        key.removeprefix(prefix): _mean(target[key] for target in targets)
        for key in targets[0]
        if key.startswith(prefix)
    }
    images = sum(target["n"] for target in finished[0].summary["targets"].values())
    return SourceResult(_mean(scores.values()), _spread(scores), images, seeds, missing, classes)


def _average(results: Mapping[str, SourceResult], finished: Sequence[FinishedCell], metric: Metric) -> SourceResult:
    """The unweighted mean over the sources; without a number while one of them has none."""
    every = list(results.values())
    missing = tuple(dict.fromkeys(seed for result in every for seed in result.missing))
    common = tuple(seed for seed in every[0].seeds if all(seed in result.seeds for result in every))
    known = [result.value for result in every if result.value is not None]
    if len(known) < len(every):
        return SourceResult(None, None, 0, common, missing, {})
    by_seed = {
        seed: _mean(result.summary[metric.name] for result in finished if result.seed == seed) for seed in common
    }
    classes = {name: _mean(result.classes[name] for result in every) for name in every[0].classes}
    return SourceResult(_mean(known), _spread(by_seed), sum(result.n for result in every), common, missing, classes)


def _spread(scores: Mapping[Seed, float]) -> float | None:
    """Sample standard deviation over the first that repeats differ in: training seeds, orders, or seeds of the draws.

    Of several repeats with the same one it is the mean that counts: as if they were independent of each other, two
    orders of the same source models would make the spread of these look smaller.
    """
    level = repeated_by([*scores])
    if level is None:
        return None
    by_value: dict[int | None, list[float]] = defaultdict(list)
    for seed, score in scores.items():
        by_value[seed[level]].append(score)
    return mean_and_std([_mean(each) for each in by_value.values()])[1]


def _costs(summaries: Sequence[Mapping[str, Any]]) -> Costs:
    if not summaries:
        return Costs(None, None, None, None)
    return Costs(
        ms_per_image=1000 * _mean(summary["seconds_per_image"] for summary in summaries),
        peak_memory_mb=max(summary["peak_memory_mb"] for summary in summaries),
        forwards_per_image=_mean(summary["forwards_per_image"] for summary in summaries),
        backwards_per_image=_mean(summary["backwards_per_image"] for summary in summaries),
        packed=any("packed" in summary for summary in summaries),
    )


def _retained(summaries: Sequence[Mapping[str, Any]]) -> float | None:
    """See :class:`~tta_bench.report.model.Row`; of cells without stages."""
    adapted = [model for summary in summaries for model in summary.get("adapted", {}).values()]
    plain = [summary["source_checkpoint"] for summary in summaries if summary["method"] == UNADAPTED]
    known = [dice for model in adapted or plain if (dice := model.get("dice_in_domain")) is not None]
    return _mean(known) if known else None


def _mean(values: Iterable[float]) -> float:
    return mean_and_std(list(values))[0]


def comparisons(labels: Sequence[str], against: str, finished: Sequence[FinishedCell]) -> dict[str, Comparison]:
    """Every other row's difference to one of them where there is one, p-values corrected for all."""
    rows = {label: [result for result in finished if result.row == label] for label in (*labels, against)}
    compared = {label: compare(rows[label], rows[against]) for label in labels if label != against}
    known = {label: comparison for label, comparison in compared.items() if comparison is not None}
    corrected = holm([comparison.p for comparison in known.values()])
    return {label: replace(known[label], p_holm=p) for label, p in zip(known, corrected, strict=True)}


class Paired(NamedTuple):
    """Two rows on the same images.

    Attributes:
        values: target -> index of the image -> difference of the metric, finite; targets without any are left out.
        models: target -> how many source models predict its images in both rows.
        excluded: images without a value in either row.
        sources: that both rows have results of.
    """

    values: Mapping[str, Mapping[str, float]]
    models: Mapping[str, int]
    excluded: int
    sources: tuple[str, ...]


def paired(method: Sequence[FinishedCell], reference: Sequence[FinishedCell]) -> Paired:
    """The differences of two rows, image by image.

    An image has one value however many models predict it, because their differences on it are alike: the mean over
    the source models that both rows have of the mean over the seeds that both have. A cell of a method that draws
    nothing serves every seed of the same source model and order. An image without a value in any of them is excluded.
    """
    differences: dict[ImageKey, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for ours, theirs in product(method, reference):
        source = ours.cell.config.source
        if source == theirs.cell.config.source and _same_seed(ours.seed, theirs.seed):
            for image in dict.fromkeys((*ours.values, *theirs.values)):
                difference = ours.values.get(image, math.nan) - theirs.values.get(image, math.nan)
                differences[image][source].append(difference)
    values: dict[str, dict[str, float]] = defaultdict(dict)
    models: dict[str, int] = {}
    for (target, index), by_source in differences.items():
        value = _mean(_mean(seeds) for seeds in by_source.values())
        if math.isfinite(value):
            values[target][index] = value
            models[target] = len(by_source)
    return Paired(
        values=values,
        models=models,
        excluded=len(differences) - sum(map(len, values.values())),
        sources=tuple(dict.fromkeys(source for by_source in differences.values() for source in by_source)),
    )


def compare(method: Sequence[FinishedCell], reference: Sequence[FinishedCell]) -> Comparison | None:
    """What the paired differences of two rows come to; ``p_holm`` is still ``p``.

    Returns:
        None if no source, seed and image is in common.
    """
    pairs = paired(method, reference)
    if not pairs.values:
        return None
    by_target = [list(target.values()) for target in pairs.values.values()]
    pooled = [value for target in by_target for value in target]
    p = signed_rank_p(pooled)
    # Pairs of source and target count equally, as in the table.
    mean, low, high = paired_difference(by_target, weights=list(pairs.models.values()))
    return Comparison(
        against=reference[0].row,
        mean=mean,
        low=low,
        high=high,
        p=p,
        p_holm=p,
        n=len(pooled),
        excluded=pairs.excluded,
        sources=pairs.sources,
    )


def _same_seed(first: Seed, second: Seed) -> bool:
    return first[:2] == second[:2] and (None in (first[2], second[2]) or first[2] == second[2])
