"""A table of results: what every format of a report shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_bench.cell import Cell
from tta_bench.launch.experiments import Plan
from tta_bench.runtime.names import distinct

AVERAGE = "average"
"""The mean over sources, as ``paper.csv`` calls it; a table whose source is called so names it otherwise."""


BN_ONLY = "bn_only"
"""The row that shows what test-image statistics gain alone; methods that use them are compared with it too."""


@dataclass(frozen=True)
class Metric:
    """What a table's numbers are.

    Attributes:
        name: of its columns ``<name>_<class>…,<name>`` in ``per_image.csv`` and ``summary.json``.
        unit: of its values; empty where they have none.
        higher_is_better: which end of the scale is the best.
    """

    name: str
    unit: str
    higher_is_better: bool

    @property
    def title(self) -> str:
        """As in a sentence; other metrics than Dice are called by their initials."""
        return "Dice" if self == DICE else self.name.upper()

    @property
    def in_unit(self) -> str:
        """The title with the unit in a word, as in ``Dice in percent``."""
        return self.title + (f" in {'percent' if self.unit == '%' else self.unit}" if self.unit else "")

    def best(self, values: Iterable[float]) -> list[float]:
        """Different values, the best first."""
        return sorted(set(values), reverse=self.higher_is_better)


DICE = Metric("dice", "%", higher_is_better=True)
"""What a table shows unless another metric is asked for, and the only one that the paper prints."""


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
        value: of the metric, mean over the finished seeds; None while there is none, and for the average
            while any source has none.
        std: sample standard deviation over the seeds; None for fewer than two. That of the average is over the
            seeds that all sources have.
        n: images of one seed; 0 while there is no result.
        seeds: that are finished; for the average, of all sources.
        missing: seeds that are planned and not finished; for the average, of any source.
        classes: value per class, mean over targets and seeds; empty while ``value`` is None.
    """

    value: float | None
    std: float | None
    n: int
    seeds: tuple[Seed, ...]
    missing: tuple[Seed, ...]
    classes: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """A row minus another on the same images, in the unit of the metric.

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


class Costs(NamedTuple):
    """What an image costs, mean over cells, and the memory of the largest; None while no cell is finished."""

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
        paper: Dice in percent per source and, if the table has the paper's sources, for the average; empty where
            the paper has none, or the table shows another metric.
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


class MissingCell(NamedTuple):
    """A planned cell without results.

    Its status is one of ``STATES``, but not ``done``; ``missing`` was never started, or its files are gone. A failed or
    stale one says why in ``error``, which else is empty.
    """

    row: str
    source: str
    seed: Seed
    hash: str
    status: str
    error: str


class SourceModelRecord(NamedTuple):
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


ImageKey = tuple[str, str]
"""Target domain and index of an image."""


class FinishedCell(NamedTuple):
    """A planned cell with its results, as they were read once.

    Attributes:
        row: its label.
        cell: that was computed.
        seed: of the repeat.
        summary: content of ``summary.json``.
        rows: of ``per_image.csv``, in file order.
        values: of the table's metric per image, mean over classes; NaN where there is none.
    """

    row: str
    cell: Cell
    seed: Seed
    summary: Mapping[str, Any]
    rows: Sequence[Mapping[str, str]]
    values: Mapping[ImageKey, float]


class Figure(NamedTuple):
    """A figure with its heading and what is written below it; ``svg`` is an SVG element."""

    title: str
    svg: str
    caption: str


class Panels(NamedTuple):
    """Segmentations of some images in one picture.

    Attributes:
        picture: uint8 ``[height, width, 3]``, RGB.
        caption: what is shown, and how its images were chosen.
        alt: the same for who cannot see it, with the value of every tile.
    """

    picture: NDArray[np.uint8]
    caption: str
    alt: str

    def webp(self) -> bytes:
        """The picture as a WebP file."""
        file = BytesIO()
        Image.fromarray(self.picture).save(file, "WEBP", quality=85, method=4)
        return file.getvalue()


class Drawings(NamedTuple):
    """All that is drawn of a table; ``panels_fault`` says why there are no panels."""

    figures: Sequence[Figure]
    panels: Panels | None
    panels_fault: str


@dataclass(frozen=True)
class Table:
    """Everything that a report of an experiment shows.

    Attributes:
        name: of the experiment.
        description: what it shows, in a sentence.
        metric: what its numbers are.
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
        finished: those of them that have results, each once.
        drawings: what is drawn of it; None until somebody does, see :func:`tta_bench.report.drawings.draw`.
    """

    name: str
    description: str
    metric: Metric
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
    finished: tuple[FinishedCell, ...]
    drawings: Drawings | None = None

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
