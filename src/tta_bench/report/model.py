"""A table of results: what every format of a report shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tta_bench.cell import Cell
from tta_bench.launch.experiments import Plan
from tta_bench.metrics.base import Metric
from tta_bench.records.examination import Examination
from tta_bench.report.statistics import Estimate
from tta_bench.runtime.names import distinct

AVERAGE = "average"
"""The mean over sources, as ``paper.csv`` calls it; a table whose source is called so names it otherwise."""


BN_ONLY = "bn_only"
"""The row that shows what test-image statistics gain alone; methods that use them are compared with it too."""


class Seed(NamedTuple):
    """What repeats of a cell differ in."""

    training: int  # seed of the source model
    order: int  # of the images in the stream, as ``protocol.order``
    # Seed of the method's random draws; None if it draws nothing, and its cell serves every seed.
    adaptation: int | None

    def __str__(self) -> str:
        drawn = "" if self.adaptation is None else f"seed {self.adaptation}, "
        return f"{drawn}training seed {self.training}, order {self.order}"


def repeated_by(seeds: Sequence[Seed]) -> int | None:
    """The place in :class:`Seed` of the first that several differ in; None where there is one alone."""
    return next((place for place in range(len(Seed._fields)) if len({seed[place] for seed in seeds}) > 1), None)


@dataclass(frozen=True)
class SourceResult:
    """A row's result for one source, or on average over the sources."""

    # Of the metric, mean over the finished seeds; None while there is none, and for the average while any source has
    # none.
    value: float | None
    # Sample standard deviation over what the seeds differ in, see :func:`repeated_by`; None for fewer than two. That of
    # the average is over the seeds that all sources have.
    std: float | None
    n: int  # images of one seed; 0 while there is no result
    seeds: tuple[Seed, ...]  # that are finished; for the average, of all sources
    missing: tuple[Seed, ...]  # seeds that are planned and not finished; for the average, of any source
    classes: Mapping[str, float]  # value per class, mean over targets and seeds; empty while ``value`` is None


@dataclass(frozen=True)
class Comparison:
    """A row minus another on the same images, in the unit of the metric."""

    against: str  # label of the other row
    mean: float  # of the means per source and target
    low: float  # end of the 95 % bootstrap interval; NaN where there is nothing to resample
    high: float  # its other end
    p: float  # Wilcoxon signed-rank test over the images, two-sided
    p_holm: float  # ``p`` corrected for all rows compared with ``against`` (Holm)
    n: int  # images compared; one that several source models predict counts once, with its mean over them
    excluded: int  # images left out because their value is missing or not finite in either row
    sources: tuple[str, ...]  # that both rows have results of


class Costs(NamedTuple):
    """What an image costs, mean over cells, and the memory of the largest; None while no cell is finished.

    Of cells that shared batches (``packed``) the time is that of a batch by its images, and the memory that of all.
    """

    ms_per_image: float | None
    peak_memory_mb: float | None
    forwards_per_image: float | None
    backwards_per_image: float | None
    packed: bool = False


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    label: str  # as in the experiment
    method: str  # name of the method
    control: bool  # whether the row is there for comparison alone, and not in the paper's table
    results: Mapping[str, SourceResult]  # per source, in the table's order
    average: SourceResult  # unweighted mean over the sources
    # Dice in percent per source and, if the table has the paper's sources, for the average; empty where the paper has
    # none, or the table shows another metric.
    paper: Mapping[str, float]
    minus_paper: Mapping[str, float]  # measured minus paper, for all that both have
    # Difference to the reference row; None for that row itself, and while no cell is in common.
    vs_reference: Comparison | None
    # The same for the row ``bn_only``; None too for the reference, and if ``bn_only`` is it.
    vs_bn_only: Comparison | None
    costs: Costs  # time, memory and passes
    skipped_updates: int  # over all finished cells, because a loss or gradient was not finite
    # Where the options of the method are from: ``default``, ``own`` (the row sets some), ``official`` or ``tuned``.
    options: str = "default"
    setting: str = "tta"  # what the systems and methods of it may see, in a word; ``none`` where nothing is adapted
    may_see: str = ""  # the same written out
    reconstruction: bool = False  # whether some of it is ours, because its authors' code and text cannot be had

    # Dice in percent on held-out images of the source, mean over cells and targets: of the adapted models, or of the
    # source model in a row without adaptation; None for other rows, where none are held out, and of stages, whose
    # matrix has the first domain after the last of them.
    retained: float | None = None

    @property
    def setting_told(self) -> str:
        """The setting, with the mark of what is a reconstruction."""
        return f"{self.setting}, our reconstruction" if self.reconstruction else self.setting

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
    """A source model that finished cells used."""

    source: str  # name of the domain it was trained on
    training_seed: int  # of its training
    path: str  # of the checkpoint
    sha256: str  # of the file
    dice_in_domain: float | None  # percent on held-out source images; None if not measured
    # Points of it that auxiliary branches cost; None if there is no model without them to compare with in the results
    # folder, see :func:`tta_bench.source.train.branch_cost`.
    branch_cost: float | None
    lacks_twin: bool  # whether training that model would tell
    examination: Examination | None = None  # of the model on its own domain; None where there was none


ImageKey = tuple[str, str]
"""Target domain and index of an image."""


class FinishedCell(NamedTuple):
    """A planned cell with its results, as they were read once."""

    row: str  # its label
    cell: Cell  # that was computed
    seed: Seed  # of the repeat
    summary: Mapping[str, Any]  # content of ``summary.json``
    rows: Sequence[Mapping[str, str]]  # of ``per_image.csv``, in file order
    values: Mapping[ImageKey, float]  # of the table's metric per image, mean over classes; NaN where there is none


class Picture(NamedTuple):
    """A drawing for a page, and the same for print."""

    svg: str  # an SVG element, which takes the colours of its page
    pdf: bytes  # a file, for white paper


class Figure(NamedTuple):
    """A figure with its heading and what is written below it: how to read it."""

    title: str
    picture: Picture
    caption: str

    @property
    def file(self) -> str:
        """Name of its files, without ending."""
        return re.sub(r"\W+", "_", self.title.lower()).strip("_")


class Panels(NamedTuple):
    """Segmentations of some images in one picture."""

    picture: NDArray[np.uint8]  # uint8 ``[height, width, 3]``, RGB
    caption: str  # what is shown, and how its images were chosen
    alt: str  # the same for readers who cannot see it, with the value of every tile

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
class AuditRow:
    """A row of a table by groups of images."""

    label: str  # of the row
    means: Mapping[str, float | None]  # per group, over its images; None where there is none
    worst: str | None  # group; None where fewer than two have a mean
    gap: float | None  # between the best and the worst group, not negative
    # What the row adds to the gap between the groups that are best and worst in the reference row, with its 95 %
    # bootstrap interval: above 0 it widens. None for the reference itself, and without images in common.
    widening: Estimate | None


@dataclass(frozen=True)
class Audit:
    """A table by groups of images."""

    attribute: str  # by which images are grouped
    counts: Mapping[str, int]  # images per group
    left_out: int  # images that have no value of the attribute
    rows: tuple[AuditRow, ...]  # in the table's order
    worst: str | None  # group of the reference row
    best: str | None  # likewise


@dataclass(frozen=True)
class Table:
    """Everything that a report of an experiment shows."""

    name: str  # of the experiment
    description: str  # what it shows, in a sentence
    metric: Metric  # what its numbers are
    rows: tuple[Row, ...]  # in the experiment's order
    reference: str  # label of the row that others are compared with
    sources: tuple[str, ...]  # names of the source domains, the columns; of training in stages the last stage
    seeds: tuple[Seed, ...]  # of all planned cells; a method that draws nothing does not add to those of the others
    targets: Mapping[str, tuple[str, ...]]  # target domains per source
    classes: tuple[str, ...]  # names, in order; none where the metric compares classes
    missing: tuple[MissingCell, ...]  # planned cells without results
    protocol: Mapping[str, Any]  # the protocol section; a value that the experiment varies is a tuple of all its values
    data: Mapping[str, Any]  # the data section, in the same way
    # 12 hexadecimal digits of both without the folder of the images and the protocol's name, the same on any machine.
    # Tables compare if hash, target domains and source models are the same.
    protocol_hash: str
    source_models: tuple[SourceModelRecord, ...]  # that finished cells used
    versions: tuple[Mapping[str, Any], ...]  # distinct records of software and device over the finished cells
    plan: Plan  # the cells behind it all
    finished: tuple[FinishedCell, ...]  # those of them that have results and are compared, each once
    stages: tuple[str, ...] = ()  # that all rows are trained in, in order; none where they are not, or in others
    earlier: tuple[FinishedCell, ...] = ()  # further cells with results, of stages that others go on from
    # Its figures and panels; None before :func:`tta_bench.report.drawings.draw`.
    drawings: Drawings | None = None
    audit: Audit | None = None  # by an attribute, where one is asked for

    @property
    def average_name(self) -> str:
        """What the mean over sources is called: ``average``, or what no source is called."""
        return distinct(AVERAGE, self.sources)

    @property
    def columns(self) -> tuple[str, ...]:
        """The sources and their average; a single source is its own average, and what stages leave has no source."""
        if self.stages:
            return (self.average_name,)
        return (*self.sources, self.average_name) if len(self.sources) > 1 else self.sources

    @property
    def has_presets(self) -> bool:
        """Whether the options of some row are official or tuned, so that every row says where its are from."""
        return any(row.options in ("official", "tuned") for row in self.rows)

    @property
    def has_settings(self) -> bool:
        """Whether some row sees more than test images, or is a reconstruction, so that every row says what it sees."""
        return any(row.setting not in ("none", "tta") or row.reconstruction for row in self.rows)

    @property
    def has_adapted(self) -> bool:
        """Whether some row has adapted models, of which it is told what they have retained of the source."""
        return any(result.summary.get("adapted") for result in self.finished)

    @property
    def has_paper(self) -> bool:
        """Whether the paper prints numbers for any row."""
        return any(row.paper for row in self.rows)
