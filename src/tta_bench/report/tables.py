"""A table from the finished cells of a plan: the numbers that every format of a report shows."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tta_bench.adaptation.provenance import staleness
from tta_bench.cell import Cell
from tta_bench.errors import UserError, nearest
from tta_bench.report.statistics import holm, mean_and_std, paired_difference, signed_rank_p
from tta_bench.runtime.names import distinct
from tta_bench.source.train import branch_cost, branchless_twin, lacks_twin, read_if_sound

if TYPE_CHECKING:
    from tta_bench.launch.experiments import Plan

AVERAGE = "average"
"""The mean over sources, as ``paper.csv`` calls it; a table whose source is called so names it otherwise."""

STATES = ("done", "stale", "running", "interrupted", "killed", "failed", "missing")
"""Of a cell, see :func:`cell_status`."""

BN_ONLY = "bn_only"
"""The row that shows what test-image statistics gain alone; methods that use them are compared with it too."""


class Seed(NamedTuple):
    """What repeats of a cell differ in.

    Attributes:
        training: seed of the source model.
        order: of the images in the stream, as ``protocol.order``.
        adaptation: seed of the method's random draws; None if it draws nothing, and its cell serves every seed.
    """

    training: int
    order: int
    adaptation: int | None

    def __str__(self) -> str:
        drawn = "" if self.adaptation is None else f"seed {self.adaptation}, "
        return f"{drawn}training seed {self.training}, order {self.order}"


@dataclass(frozen=True)
class SourceResult:
    """A row's result for one source, or on average over the sources.

    Attributes:
        dice: percent, mean over the finished seeds; None while there is none, and for the average while any source
            has none.
        std: sample standard deviation over the seeds; None for fewer than two. That of the average is over the
            seeds that all sources have.
        n: images of one seed; 0 while there is no result.
        seeds: that are finished; for the average, of all sources.
        missing: seeds that are planned and not finished; for the average, of any source.
        classes: percent per class, mean over targets and seeds; empty while ``dice`` is None.
    """

    dice: float | None
    std: float | None
    n: int
    seeds: tuple[Seed, ...]
    missing: tuple[Seed, ...]
    classes: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """A row minus another on the same images, Dice points.

    Attributes:
        against: label of the other row.
        mean: of the means per source and target.
        low: end of the 95 % bootstrap interval; NaN where there is nothing to resample.
        high: its other end.
        p: Wilcoxon signed-rank test over the images, two-sided.
        p_holm: ``p`` corrected for all rows compared with ``against`` (Holm).
        n: images compared; one that several source models predict counts once, with its mean over them.
        excluded: images left out because their value is missing or not finite in either row.
        sources: that both rows have results of.
    """

    against: str
    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    n: int
    excluded: int
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Costs:
    """What an image costs; None while no cell is finished.

    Attributes:
        ms_per_image: milliseconds, mean over cells.
        peak_memory_mb: megabytes, largest of the cells.
        forwards_per_image: images through the network, mean over cells.
        backwards_per_image: backward passes, mean over cells.
    """

    ms_per_image: float | None
    peak_memory_mb: float | None
    forwards_per_image: float | None
    backwards_per_image: float | None


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: as in the experiment.
        method: name of the method.
        control: whether the row is there for comparison alone, and not in the paper's table.
        results: per source, in the table's order.
        average: unweighted mean over the sources.
        paper: percent per source and, if the table has the paper's sources, for the average; empty where the paper
            has none.
        minus_paper: measured minus paper, for all that both have.
        vs_reference: difference to the reference row; None for that row itself, and while no cell is in common.
        vs_bn_only: the same for the row ``bn_only``; None too for the reference, and if ``bn_only`` is it.
        costs: time, memory and passes.
        skipped_updates: over all finished cells, because a loss or gradient was not finite.
    """

    label: str
    method: str
    control: bool
    results: Mapping[str, SourceResult]
    average: SourceResult
    paper: Mapping[str, float]
    minus_paper: Mapping[str, float]
    vs_reference: Comparison | None
    vs_bn_only: Comparison | None
    costs: Costs
    skipped_updates: int

    def result(self, column: str) -> SourceResult:
        """The result of a column of the table: of a source, or the average."""
        return self.results.get(column, self.average)


@dataclass(frozen=True)
class MissingCell:
    """A planned cell without results.

    Attributes:
        row: its label.
        source: name of the source domain.
        seed: of the repeat.
        hash: name of its folder.
        status: of :data:`STATES`, but not ``done``; ``missing`` was never started, or its files are gone.
        error: of a failed cell, or why it is stale; else empty.
    """

    row: str
    source: str
    seed: Seed
    hash: str
    status: str
    error: str


@dataclass(frozen=True)
class SourceModelRecord:
    """A source model that finished cells used.

    Attributes:
        source: name of the domain it was trained on.
        training_seed: of its training.
        path: of the checkpoint.
        sha256: of the file.
        dice_in_domain: percent on held-out source images; None if not measured.
        branch_cost: points of it that auxiliary branches cost; None if there is no model without them to compare
            with in the results folder, see :func:`tta_bench.source.train.branch_cost`.
        lacks_twin: whether training that model would tell.
    """

    source: str
    training_seed: int
    path: str
    sha256: str
    dice_in_domain: float | None
    branch_cost: float | None
    lacks_twin: bool


@dataclass(frozen=True)
class Table:
    """Everything that a report of an experiment shows.

    Attributes:
        name: of the experiment.
        description: what it shows, in a sentence.
        rows: in the experiment's order.
        reference: label of the row that others are compared with.
        sources: names of the source domains, the columns.
        seeds: of all planned cells; a method that draws nothing does not add to those of the others.
        targets: target domains per source.
        classes: names, in order.
        missing: planned cells without results.
        protocol: the protocol section; a value that the experiment varies is a tuple of all its values.
        data: the data section, in the same way.
        protocol_hash: 12 hexadecimal digits of both without the folder of the images and the protocol's name, the
            same on any machine. Tables compare if hash, target domains and source models are the same.
        source_models: that finished cells used.
        versions: distinct records of software and device over the finished cells.
        plan: the cells behind it all.
    """

    name: str
    description: str
    rows: tuple[Row, ...]
    reference: str
    sources: tuple[str, ...]
    seeds: tuple[Seed, ...]
    targets: Mapping[str, tuple[str, ...]]
    classes: tuple[str, ...]
    missing: tuple[MissingCell, ...]
    protocol: Mapping[str, Any]
    data: Mapping[str, Any]
    protocol_hash: str
    source_models: tuple[SourceModelRecord, ...]
    versions: tuple[Mapping[str, Any], ...]
    plan: Plan

    @property
    def average_name(self) -> str:
        """What the mean over sources is called: ``average``, or what no source is called."""
        return distinct(AVERAGE, self.sources)

    @property
    def columns(self) -> tuple[str, ...]:
        """The sources and their average; a single source is its own average."""
        return (*self.sources, self.average_name) if len(self.sources) > 1 else self.sources

    @property
    def has_paper(self) -> bool:
        """Whether the paper prints numbers for any row."""
        return any(row.paper for row in self.rows)


ImageKey = tuple[str, str]
"""Target domain and index of an image."""


@dataclass(frozen=True)
class FinishedCell:
    """A planned cell with its results.

    Attributes:
        row: its label.
        cell: that was computed.
        seed: of the repeat.
        summary: content of ``summary.json``.
        dice: percent per image, mean over classes.
    """

    row: str
    cell: Cell
    seed: Seed
    summary: Mapping[str, Any]
    dice: Mapping[ImageKey, float]


def build_table(plan: Plan, reference: str | None = None) -> Table:
    """Read the cells of a plan, finished or not, and compute all numbers of its table.

    Args:
        plan: of an experiment.
        reference: label of the row to compare with; None: that of the experiment.

    Raises:
        UserError: an unknown reference, or cells whose numbers cannot be compared, all of them named.
    """
    labels = tuple(dict.fromkeys(planned.row for planned in plan.cells))
    reference = plan.experiment.reference if reference is None else reference
    if reference not in labels:
        raise UserError(f"there is no row '{reference}' to compare with: {nearest(reference, labels)}")
    cells = distinct_cells(plan)
    finished, missing = _read(cells)
    faults = [*_repeat_faults(cells), *_config_faults(plan, cells), *_summary_faults(finished)]
    if faults:
        raise UserError(faults)
    sources = tuple(dict.fromkeys(cell.config.source for _, cell in cells))
    vs_reference = _comparisons(labels, reference, finished)
    # Without the reference: its difference to bn_only is among the others already, with the other sign.
    methods = [label for label in labels if label != reference]
    vs_bn_only = _comparisons(methods, BN_ONLY, finished) if reference != BN_ONLY else {}
    rows = []
    for label in labels:
        row = _row(label, plan, sources, cells, finished)
        rows.append(replace(row, vs_reference=vs_reference.get(label), vs_bn_only=vs_bn_only.get(label)))
    configs = [cell.config for _, cell in cells]
    protocol = _common([config.protocol.model_dump(mode="json") for config in configs])
    data = _common([config.data.model_dump(mode="json") for config in configs])
    seeds = sorted({_seed(cell) for _, cell in cells}, key=_seed_order)
    drawn = {seed[:2] for seed in seeds if seed.adaptation is not None}
    return Table(
        name=plan.experiment.name,
        description=plan.experiment.description,
        rows=tuple(rows),
        reference=reference,
        sources=sources,
        seeds=tuple(seed for seed in seeds if seed.adaptation is not None or seed[:2] not in drawn),
        targets={cell.config.source: cell.targets for _, cell in cells},
        classes=tuple(configs[0].data.classes),
        missing=tuple(missing),
        protocol=protocol,
        data=data,
        protocol_hash=_protocol_hash(protocol, data),
        source_models=_source_models(finished),
        versions=_distinct(one.summary["versions"] for one in finished),
        plan=plan,
    )


def distinct_cells(plan: Plan) -> list[tuple[str, Cell]]:
    """Rows and cells of a plan; a cell that stands for several seeds is there once."""
    unique = {(planned.row, planned.cell.folder().hash): planned.cell for planned in plan.cells}
    return [(row, cell) for (row, _), cell in unique.items()]


def _read(cells: Sequence[tuple[str, Cell]]) -> tuple[list[FinishedCell], list[MissingCell]]:
    """The finished cells with their results, and the others."""
    finished, missing = [], []
    for row, cell in cells:
        folder, seed = cell.folder(), _seed(cell)
        results = cell.finished()
        if results is None:
            status, error = cell_status(cell)
            missing.append(MissingCell(row, cell.config.source, seed, folder.hash, status, error))
        else:
            summary, rows = results
            dice = {(line["target"], line["index"]): _number(line["dice"]) for line in rows}
            finished.append(FinishedCell(row, cell, seed, summary, dice))
    return finished, missing


def cell_status(cell: Cell) -> tuple[str, str]:
    """One of :data:`STATES`, and the error of a failed cell or why a cell is stale (else empty).

    A cell that says ``done`` is ``stale`` if the code that decides its numbers has changed since, and ``missing`` if
    its results cannot be read: the next run computes it again.
    """
    folder = cell.folder()
    status = folder.status()
    if status == "done":
        finished = folder.finished()
        stale = staleness(finished[0], cell.config) if finished is not None else None
        return ("missing" if finished is None else "stale" if stale else "done"), stale or ""
    if status != "failed":
        killed = status == "running" and not folder.is_held()
        return ("killed" if killed else status or "missing"), ""
    return status, folder.error()


def _number(text: str) -> float:
    """A value of ``per_image.csv``; NaN where there is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _seed(cell: Cell) -> Seed:
    return Seed(cell.config.training.seed, cell.config.protocol.order, cell.seed if cell.is_stochastic else None)


def _seed_order(seed: Seed) -> tuple[int, int, int]:
    return seed.training, seed.order, -1 if seed.adaptation is None else seed.adaptation


def _name(row: str, cell: Cell) -> str:
    """A cell in a sentence."""
    return f"row '{row}', source {cell.config.source}, {_seed(cell)} ({cell.folder().hash})"


# What must not be mixed


def _repeat_faults(cells: Sequence[tuple[str, Cell]]) -> list[str]:
    """Cells of one row, source and seed: which of them is the result?"""
    first: dict[tuple[str, str, Seed], Cell] = {}
    faults = []
    for row, cell in cells:
        other = first.setdefault((row, cell.config.source, _seed(cell)), cell)
        if other is not cell:
            keys = ", ".join(_differing(_flat(other.identity()), _flat(cell.identity())))
            faults.append(
                f"{_name(row, cell)} and {other.folder().hash} differ in {keys} alone: "
                f"give {keys} one value, or each value a row of its own"
            )
    return faults


def _config_faults(plan: Plan, cells: Sequence[tuple[str, Cell]]) -> list[str]:
    """Keys of protocol, data, network and training that differ without being a choice of the experiment."""
    row, first = cells[0]
    expected = _comparable(first)
    faults = []
    for other_row, cell in cells[1:]:
        found = _comparable(cell)
        for key in _differing(expected, found):
            if not _on_purpose(key, plan):
                faults.append(
                    f"{_name(other_row, cell)} has {key}={found.get(key)}, but {_name(row, first)} has "
                    f"{key}={expected.get(key)}: give {key} one value, their numbers cannot be compared"
                )
    targets: dict[str, tuple[str, Cell]] = {}
    for other_row, cell in cells:
        row, first = targets.setdefault(cell.config.source, (other_row, cell))
        if cell.targets != first.targets:
            faults.append(
                f"{_name(other_row, cell)} has target={','.join(cell.targets)}, but {_name(row, first)} has "
                f"target={','.join(first.targets)}: give target one value"
            )
    return faults


def _comparable(cell: Cell) -> dict[str, Any]:
    """Dotted keys and values that all rows share unless the experiment varies them."""
    config = cell.config
    sections = config.model_dump(mode="json", include={"protocol", "data", "model", "checkpoint"})
    sections["training"] = config.training.content(config.model.branches)
    del sections["training"]["seed"], sections["protocol"]["order"]  # repeats
    return _flat(sections)


def _on_purpose(key: str, plan: Plan) -> bool:
    """Whether the experiment or the command line chooses this key or its section; a checkpoint is of one source."""
    experiment = plan.experiment
    chosen = {key for row in experiment.rows.values() for key in row} | {*experiment.sweep, "checkpoint"}
    chosen |= {text.partition("=")[0] for text in plan.overrides}
    return any(key == one or key.startswith(f"{one}.") for one in (text.lstrip("+") for text in chosen))


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [key for key in dict.fromkeys((*first, *second)) if first.get(key) != second.get(key)]


def _summary_faults(finished: Sequence[FinishedCell]) -> list[str]:
    """Finished cells that were computed with other source models, images or rules than their configuration's equals."""
    faults = []
    models: dict[str, FinishedCell] = {}
    images: dict[str, FinishedCell] = {}
    for one in finished:
        config, name = one.cell.config, _name(one.row, one.cell)
        again = "compute one of them again with force=true"
        changed = _differing(one.summary["protocol"], config.protocol.model_dump(mode="json"))
        faults += [
            f"{name} was computed with protocol.{key}={one.summary['protocol'].get(key)}, not "
            f"{getattr(config.protocol, key, None)}: compute it again with force=true"
            for key in changed
        ]
        other = models.setdefault(_key(one.cell, "source", "model", "training", "checkpoint", "data"), one)
        sha256, expected = (each.summary["source_checkpoint"]["sha256"] for each in (one, other))
        if sha256 != expected:
            faults.append(
                f"{name} used the source model with sha256 {sha256[:12]}, but {_name(other.row, other.cell)} the one "
                f"with {expected[:12]}: {again}"
            )
        data = _key(one.cell, "data")
        for target, fingerprint in one.summary["data"].items():
            other = images.setdefault(f"{target} of {data}", one)
            if other.summary["data"][target] != fingerprint:
                faults.append(
                    f"{name} saw other images of {target} (fingerprint {fingerprint[:12]}) than "
                    f"{_name(other.row, other.cell)} ({other.summary['data'][target][:12]}): {again}"
                )
    return faults


def _key(cell: Cell, *parts: str) -> str:
    """Parts of a cell's identity as text."""
    identity = cell.identity()
    return json.dumps({part: identity.get(part) for part in parts}, sort_keys=True)


# The numbers of a row


def _row(
    label: str,
    plan: Plan,
    sources: Sequence[str],
    cells: Sequence[tuple[str, Cell]],
    finished: Sequence[FinishedCell],
) -> Row:
    """A row without its comparisons."""
    planned = [cell for row, cell in cells if row == label]
    own = [one for one in finished if one.row == label]
    results = {
        source: _source_result(
            [_seed(cell) for cell in planned if cell.config.source == source],
            [one for one in own if one.cell.config.source == source],
        )
        for source in sources
    }
    average = _average(results, own)
    mean = distinct(AVERAGE, sources)
    printed = {mean if key == AVERAGE else key: dice for key, dice in plan.experiment.paper.get(label, {}).items()}
    same_sources = {*printed} == {*sources, mean}
    paper = {column: dice for column, dice in printed.items() if column in sources or same_sources}
    measured = {source: result.dice for source, result in results.items()} | {mean: average.dice}
    return Row(
        label=label,
        method=planned[0].config.method["name"],
        control=label in plan.experiment.controls,
        results=results,
        average=average,
        paper=paper,
        minus_paper={
            column: dice - paper[column] for column, dice in measured.items() if dice is not None and column in paper
        },
        vs_reference=None,
        vs_bn_only=None,
        costs=_costs([one.summary for one in own]),
        skipped_updates=sum(one.summary["skipped_updates"] for one in own),
    )


def _source_result(planned: Sequence[Seed], finished: Sequence[FinishedCell]) -> SourceResult:
    done = {one.seed for one in finished}
    missing = tuple(seed for seed in planned if seed not in done)
    if not finished:
        return SourceResult(None, None, 0, (), missing, {})
    dice, std = mean_and_std([one.summary["dice"] for one in finished])
    names = [key for key in next(iter(finished[0].summary["targets"].values())) if key.startswith("dice_")]
    classes = {
        name.removeprefix("dice_"): _mean(
            target[name] for one in finished for target in one.summary["targets"].values()
        )
        for name in names
    }
    images = sum(target["n"] for target in finished[0].summary["targets"].values())
    return SourceResult(dice, std, images, tuple(one.seed for one in finished), missing, classes)


def _average(results: Mapping[str, SourceResult], finished: Sequence[FinishedCell]) -> SourceResult:
    """The unweighted mean over the sources; without a number while one of them has none."""
    every = list(results.values())
    missing = tuple(dict.fromkeys(seed for result in every for seed in result.missing))
    common = tuple(seed for seed in every[0].seeds if all(seed in result.seeds for result in every))
    known = [result.dice for result in every if result.dice is not None]
    if len(known) < len(every):
        return SourceResult(None, None, 0, common, missing, {})
    by_seed = [_mean(one.summary["dice"] for one in finished if one.seed == seed) for seed in common]
    std = mean_and_std(by_seed)[1] if by_seed else None
    classes = {name: _mean(result.classes[name] for result in every) for name in every[0].classes}
    return SourceResult(_mean(known), std, sum(result.n for result in every), common, missing, classes)


def _costs(summaries: Sequence[Mapping[str, Any]]) -> Costs:
    if not summaries:
        return Costs(None, None, None, None)
    return Costs(
        ms_per_image=1000 * _mean(summary["seconds_per_image"] for summary in summaries),
        peak_memory_mb=max(summary["peak_memory_mb"] for summary in summaries),
        forwards_per_image=_mean(summary["forwards_per_image"] for summary in summaries),
        backwards_per_image=_mean(summary["backwards_per_image"] for summary in summaries),
    )


def _mean(values: Iterable[float]) -> float:
    return mean_and_std(list(values))[0]


# Differences between rows


def _comparisons(labels: Sequence[str], against: str, finished: Sequence[FinishedCell]) -> dict[str, Comparison]:
    """Every other row's difference to one of them where there is one, p-values corrected for all."""
    other = [one for one in finished if one.row == against]
    known = {}
    for label in labels:
        comparison = compare([one for one in finished if one.row == label], other) if label != against else None
        if comparison is not None:
            known[label] = comparison
    corrected = holm([comparison.p for comparison in known.values()])
    return {
        label: replace(comparison, p_holm=p) for (label, comparison), p in zip(known.items(), corrected, strict=True)
    }


def compare(method: Sequence[FinishedCell], reference: Sequence[FinishedCell]) -> Comparison | None:
    """The paired differences of two rows; ``p_holm`` is still ``p``.

    An image has one value however many models predict it, because their differences on it are alike: the mean over
    the source models that both rows have of the mean over the seeds that both have. A cell of a method that draws
    nothing serves every seed of the same source model and order. An image without a Dice in any of them is excluded.

    Returns:
        None if no source, seed and image is in common.
    """
    differences: dict[ImageKey, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in method:
        for other in reference:
            if one.cell.config.source == other.cell.config.source and _same_seed(one.seed, other.seed):
                for image in dict.fromkeys((*one.dice, *other.dice)):
                    difference = one.dice.get(image, math.nan) - other.dice.get(image, math.nan)
                    differences[image][one.cell.config.source].append(difference)
    values: dict[str, list[float]] = defaultdict(list)
    models: dict[str, int] = {}
    for (target, _), by_source in differences.items():
        value = _mean(_mean(seeds) for seeds in by_source.values())
        if math.isfinite(value):
            values[target].append(value)
            models[target] = len(by_source)
    if not values:
        return None
    pooled = [value for target in values.values() for value in target]
    p = signed_rank_p(pooled)
    # Pairs of source and target count equally, as in the table.
    mean, low, high = paired_difference(list(values.values()), weights=list(models.values()))
    return Comparison(
        against=reference[0].row,
        mean=mean,
        low=low,
        high=high,
        p=p,
        p_holm=p,
        n=len(pooled),
        excluded=len(differences) - len(pooled),
        sources=tuple(dict.fromkeys(source for by_source in differences.values() for source in by_source)),
    )


def _same_seed(one: Seed, other: Seed) -> bool:
    drawn = None in (one.adaptation, other.adaptation) or one.adaptation == other.adaptation
    return drawn and (one.training, one.order) == (other.training, other.order)


# What the whole table shares


def _common(sections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A section of all cells; where they differ, a tuple of the values in order of appearance."""
    common = {}
    for key in sections[0]:
        values = _distinct(section[key] for section in sections)
        common[key] = values[0] if len(values) == 1 else values
    return common


def _distinct(values: Iterable[Any]) -> tuple[Any, ...]:
    """Values, of which some may not be hashable, once each."""
    return tuple({json.dumps(value, sort_keys=True): value for value in values}.values())


def _protocol_hash(protocol: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """See :class:`Table`; a name and a folder are of one machine, the rules and images are not."""
    content = {
        "protocol": {key: value for key, value in protocol.items() if key != "name"},
        "data": {key: value for key, value in data.items() if key != "root"},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _source_models(finished: Sequence[FinishedCell]) -> tuple[SourceModelRecord, ...]:
    """Each source model once, with what its branches cost where that is known."""
    cells = {}
    for one in finished:
        checkpoint = one.summary["source_checkpoint"]
        cells[one.cell.config.source, one.seed.training, checkpoint["path"]] = one
    records = []
    for (source, training_seed, path), one in sorted(cells.items()):
        cost, unknown = None, False
        if one.cell.config.model.branches and Path(path).exists():
            checkpoint = read_if_sound(Path(path))
            if checkpoint is not None:
                twin = branchless_twin(checkpoint, one.cell.config.results_root)
                cost, unknown = branch_cost(checkpoint, twin), lacks_twin(checkpoint, twin)
        record = one.summary["source_checkpoint"]
        records.append(SourceModelRecord(source, training_seed, **record, branch_cost=cost, lacks_twin=unknown))
    return tuple(records)
