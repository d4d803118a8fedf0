"""What makes numbers weaker than they look, said before them in every report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tta_bench.cell import Result
from tta_bench.metrics.base import METRICS, PRIMARY, Metric
from tta_bench.records.examination import examination_of
from tta_bench.report.cells import own_domain
from tta_bench.report.model import Table
from tta_bench.report.notes import missing_note
from tta_bench.report.text import number
from tta_bench.runtime.sections import DiagnosticsConfig
from tta_bench.schema import RunConfig

NOTHING = 0.01
"""Percent. Dice of masks without a pixel in common is below it, because of the ``1e-6`` in its formula."""


class Run(NamedTuple):
    """Results of a cell under what it is called."""

    label: str
    summary: Mapping[str, Any]  # content of ``summary.json``
    rows: Sequence[Mapping[str, str]]  # of ``per_image.csv``
    config: RunConfig

    @property
    def bar(self) -> DiagnosticsConfig:
        """What a source model has to be."""
        return self.config.diagnostics

    @property
    def home(self) -> str:
        """The domain that its source model was trained on."""
        return own_domain(self.config)


def warnings(table: Table) -> list[str]:
    """One or two sentences each, what weighs most first; none where nothing is weak."""
    lines = [missing_note(table)] if table.missing else []
    runs = [Run(cell.row, cell.summary, cell.rows, cell.cell.config) for cell in table.finished]
    skipped = [f"{row.label} {row.skipped_updates}" for row in table.rows if row.skipped_updates]
    if skipped:
        lines.append(f"Updates skipped because a loss or gradient was not finite: {', '.join(skipped)}.")
    lines = [
        *_weak_sources(runs),
        *_one_training_seed(table),
        *_orders(table),
        *lines,
        *_unexamined(runs),
        *_undertrained(runs),
    ]
    return [*lines, *_empty(runs), *_infinite(runs, table.metric), *_skipped(runs), *_outside(runs)]


def run_warnings(result: Result, config: RunConfig, reference: Result | None = None) -> list[str]:
    """The same of a single run, of which everybody knows that its training seed is one.

    Args:
        result: of the run.
        config: of the run.
        reference: what it is compared with; its masks count in the table, too.
    """
    runs = [Run(result[0]["method"], *result, config)]
    metrics = [METRICS.get(name) for name in result[0].get("metrics", ()) if name in METRICS.names()]
    both = runs if reference is None else [Run(reference[0]["method"], *reference, config), *runs]
    lines = [*_weak_sources(runs), *_unexamined(runs), *_undertrained(runs), *_empty(runs)]
    infinite = [line for metric in metrics for line in _infinite(both, metric)]
    return [*lines, *infinite, *_skipped(both), *_outside(runs)]


def _infinite(runs: Sequence[Run], metric: Metric) -> list[str]:
    """Distances from or to a mask that has no pixel."""
    counts = _empty_masks(runs, ("truth", "prediction")) if metric.is_distance else {}
    if not counts:
        return []
    return [
        f"{metric.title} is infinite where one of two masks has no pixel, and counts as the diagonal of the image "
        f"there, masks: {', '.join(f'{label} {count}' for label, count in counts.items())}."
    ]


def _skipped(runs: Sequence[Run]) -> list[str]:
    """Masks that no mean counts."""
    counts = _empty_masks([run for run in runs if run.summary["protocol"].get("empty") == "skip"], ("both",))
    if not counts:
        return []
    return [
        "Left out of the means, because neither prediction nor truth has a pixel of a class (protocol.empty=skip), "
        f"masks: {', '.join(f'{label} {count}' for label, count in counts.items())}."
    ]


def _empty_masks(runs: Iterable[Run], kinds: Sequence[str]) -> dict[str, int]:
    """Label -> how many pairs of masks of all its runs are empty in one of these ways, if any."""
    counts: Counter[str] = Counter()
    for run in runs:
        found = [count for classes in run.summary.get("empty_masks", {}).values() for count in classes.values()]
        counts[run.label] += sum(count.get(kind, 0) for count in found for kind in kinds)
    return {label: count for label, count in counts.items() if count}


def _one_training_seed(table: Table) -> list[str]:
    seeds: dict[str, set[int]] = defaultdict(set)  # by source
    for cell in table.finished:
        seeds[own_domain(cell.cell.config)].add(cell.seed.training)
    single = {source: min(found) for source, found in sorted(seeds.items()) if len(found) == 1}
    if not single:
        return []
    which = ", ".join(map(str, sorted(set(single.values()))))
    of = "" if len(single) == len(seeds) else f" of source {', '.join(single)}"
    imported = any(cell.cell.config.checkpoint is not None for cell in table.finished)
    remedy = "Compare with another checkpoint=." if imported else "Run training.seed=0,1,2."
    return [
        f"ONLY ONE TRAINING SEED ({which}) STANDS BEHIND EVERY NUMBER{of}: another training of the same source model "
        f"can change them by more than methods differ, and no interval here covers that. {remedy}"
    ]


def _orders(table: Table) -> list[str]:
    """Rows whose models have learned in different orders, and what can be compared all the same."""
    orders: dict[str, tuple[str, ...]] = {}
    for planned in table.plan.cells:
        orders[planned.row] = max(orders.get(planned.row, ()), planned.cell.config.stages or (), key=len)
    rows: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for label, stages in orders.items():
        rows[stages].append(label)
    if table.stages or len(rows) < 2:
        return []
    each = "; ".join(f"{', '.join(stages) or 'no stages'}: {', '.join(of)}" for stages, of in rows.items())
    return [
        f"Rows have learned in different orders of stages ({each}). A column is of what is left after the stage that "
        "it is named by: rows that end in another stage have a column of their own and are not compared, and there is "
        "no transfer. Report each order by itself for these."
    ]


def _models(runs: Sequence[Run]) -> dict[int, str]:
    """Training seed -> what is said behind the domain of a source model to tell it from others of that domain."""
    seeds = {run.config.training.seed for run in runs}
    return {seed: f", training seed {seed}," if len(seeds) > 1 else "" for seed in seeds}


def _weak_sources(runs: Sequence[Run]) -> list[str]:
    """The first line of all where a model fails on its own domain, whatever adapting it gains."""
    told = _models(runs)
    weak: dict[str, tuple[float, str]] = {}
    for run in runs:
        source, bar, dice = run.home, run.bar, run.summary["source_checkpoint"]["dice_in_domain"]
        model = f"{source}{told[run.config.training.seed]}"
        found = examination_of(run.summary)
        if found is not None:
            dice, why = found.dice, ", and ".join(found.weaknesses(bar))
            why = f"{model} {why} ({found.n} {found.where})" if why else ""
        else:
            low = dice is not None and bar.source_dice is not None and dice < bar.source_dice
            why = f"{model} has an in-domain Dice of {number(dice)}, below {bar.source_dice:g}" if low else ""
        if why:
            weak[source] = min((dice, why), weak.get(source, (dice, why)))
    if not weak:
        return []
    each = "; ".join(why for _, why in weak.values())
    return [
        f"SOURCE MODEL TOO WEAK TO ADAPT: {each}. What adaptation gains over such a model is what its training left: "
        "train it longer (training.min_steps) or on more images."
    ]


def _unexamined(runs: Iterable[Run]) -> list[str]:
    """Source models of which less is known than of others."""
    by_kind: dict[str, dict[str, bool]] = defaultdict(dict)
    for run in runs:
        found, dice = examination_of(run.summary), run.summary["source_checkpoint"]["dice_in_domain"]
        if found is not None and found.images == "training":
            by_kind["training"][run.home] = True
        elif found is None:
            by_kind["unknown" if dice is None else "unexamined"][run.home] = True
    sentences = {
        "training": "In-domain Dice is of training images, for none was held out: source {}. On others it is lower.",
        "unknown": "In-domain Dice is unknown: source {}. Nobody can tell here whether its model was trained well: no "
        "images of its domain were kept out of its training, or it was imported.",
        "unexamined": "Source model not examined: source {}. Whether its running statistics had converged is not "
        "known; the same run again examines it where images of its domain are given, and computes nothing else anew.",
    }
    return [text.format(", ".join(by_kind[kind])) for kind, text in sentences.items() if by_kind[kind]]


def _undertrained(runs: Sequence[Run]) -> list[str]:
    told = _models(runs)
    above: dict[str, tuple[float, str]] = {}
    for run in runs:
        label, summary, source = run.label, run.summary, run.home
        # Other models, which may have learned from labels of their target.
        if summary.get("adapted") or (run.config.stages and summary.get("routes")):
            continue
        dice = summary["source_checkpoint"]["dice_in_domain"]
        foreign = [target[PRIMARY] for name, target in summary["targets"].items() if name != source]
        mean = sum(foreign) / len(foreign) if foreign else 0.0
        if dice is not None and mean > dice and mean - dice > above.get(source, (0.0, ""))[0]:
            model = f"{source}{told[run.config.training.seed]}"
            above[source] = mean - dice, f"{model} {number(mean)} with {label}, {number(dice)} at home"
    if not above:
        return []
    return [
        "Foreign Dice is above in-domain Dice, so a source model is undertrained and what adaptation gains may be what "
        f"training left: source {'; '.join(text for _, text in above.values())}."
    ]


def _empty(runs: Iterable[Run]) -> list[str]:
    """Classes whose masks cannot meet, because those of the truth or of the predictions have no pixel."""
    found: dict[tuple[str, str], dict[str, bool]] = defaultdict(dict)  # class and target -> labels
    labels: dict[str, bool] = {}
    for label, _, rows, _ in runs:
        labels[label] = True
        values: dict[tuple[str, str], list[float]] = defaultdict(list)
        for row in rows:
            for key, value in row.items():
                if key.startswith(f"{PRIMARY}_"):
                    values[key.removeprefix(f"{PRIMARY}_"), row["target"]].append(float(value or "nan"))
        for place, dice in values.items():
            if any(value < NOTHING for value in dice) and all(value < NOTHING or value == 100 for value in dice):
                found[place][label] = True
    together: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for (name, target), weak in found.items():
        together[name, tuple(weak)].append(target)
    return [
        f"Class {name} is empty in {', '.join(targets)}: its Dice is 0 or 100 on every image, because the labels or "
        "the predictions have no pixel of it, "
        + ("in every row." if len(weak) == len(labels) > 1 else f"with {', '.join(weak)}.")
        for (name, weak), targets in together.items()
    ]


def _outside(runs: Iterable[Run]) -> list[str]:
    """Classes that were predicted outside the classes around them."""
    found: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(dict)  # pair of classes -> label -> counts
    for label, summary, rows, _ in runs:
        for each in summary.get("outside", ()):
            counts = found[each["class"], each["around"]].setdefault(label, [0, 0, 0, 0])
            new = (each["images"], len(rows), each["pixels"], each["of"])
            counts[:] = (before + more for before, more in zip(counts, new, strict=True))
    return [
        f"Class {inner} is predicted outside {outer}, which it lies in: "
        + _of_worst(labels)
        + ". predict.nest=true takes that away."
        for (inner, outer), labels in found.items()
    ]


SOME = 3
"""Rows that a sentence names; more would hide the next one."""


def _of_worst(labels: Mapping[str, Sequence[int]]) -> str:
    """The rows that predict the largest part of a class outside, and how many more do."""
    ordered = sorted(labels.items(), key=lambda each: -each[1][2] / each[1][3])
    told = [
        f"{label} in {images} of {n} images ({number(100 * pixels / total)} percent of its pixels)"
        for label, (images, n, pixels, total) in ordered[:SOME]
    ]
    more = len(ordered) - SOME
    return ", ".join(told) + (f", {more} more {'row' if more == 1 else 'rows'} in fewer pixels" if more > 0 else "")
