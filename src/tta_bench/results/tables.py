"""A table from the finished cells of a plan: the numbers that every format of a report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tta_bench.launch.experiments import Plan

AVERAGE = "average"
"""The key of the mean over sources, beside the names of the sources."""

BN_ONLY = "bn_only"
"""The row that shows what test-image statistics gain alone; methods that use them are compared with it too."""


class Seed(NamedTuple):
    """What repeats of a cell differ in.

    Attributes:
        training: seed of the source model.
        adaptation: seed of the method's random draws; None if it draws nothing, and its cell serves every seed.
    """

    training: int
    adaptation: int | None

    def __str__(self) -> str:
        return f"{self.training}" if self.adaptation is None else f"{self.training}/{self.adaptation}"


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
        p: Wilcoxon signed-rank test over the pooled images, two-sided.
        p_holm: ``p`` corrected for all rows compared with ``against`` (Holm).
        n: images compared.
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
        results: per source, in the table's order.
        average: unweighted mean over the sources.
        paper: percent per source and for ``average``; empty where the paper has none.
        minus_paper: measured minus paper, for all that both have.
        vs_reference: difference to the reference row; None for that row itself, and while no cell is in common.
        vs_bn_only: the same for the row ``bn_only``; None too if there is none or if it is the reference.
        costs: time, memory and passes.
        skipped_updates: over all finished cells, because a loss or gradient was not finite.
    """

    label: str
    method: str
    results: Mapping[str, SourceResult]
    average: SourceResult
    paper: Mapping[str, float]
    minus_paper: Mapping[str, float]
    vs_reference: Comparison | None
    vs_bn_only: Comparison | None
    costs: Costs
    skipped_updates: int

    def result(self, column: str) -> SourceResult:
        """The result of a source, or of ``average``."""
        return self.average if column == AVERAGE else self.results[column]


@dataclass(frozen=True)
class MissingCell:
    """A planned cell without results.

    Attributes:
        row: its label.
        source: name of the source domain.
        seed: of the repeat.
        hash: name of its folder.
        status: ``running``, ``failed`` or ``missing`` (never started, or its files are gone).
        error: of a failed cell, else empty.
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
    """

    source: str
    training_seed: int
    path: str
    sha256: str
    dice_in_domain: float | None


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
        classes: names, in order; empty while no cell is finished.
        missing: planned cells without results.
        protocol: the protocol section; a value that rows vary on purpose is a tuple of all its values.
        data: the data section, in the same way.
        protocol_hash: 12 hexadecimal digits of both without the folder of the images and the protocol's name:
            equal hashes mean comparable numbers, on any machine.
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
    def columns(self) -> tuple[str, ...]:
        """The sources and ``average``; a single source is its own average."""
        return (*self.sources, AVERAGE) if len(self.sources) > 1 else self.sources

    @property
    def has_paper(self) -> bool:
        """Whether the paper prints numbers for any row."""
        return any(row.paper for row in self.rows)
