"""The report as one HTML page: no network, no script needed, light and dark, narrow and wide."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from tta_bench.adaptation.scenarios.base import scenario_of
from tta_bench.errors import UserError
from tta_bench.report.figures import (
    dice_distributions,
    empirical_cosine,
    mean_of_targets,
    running_dice,
    standalone,
    traces,
)
from tta_bench.report.formats import branch_notes, comparable_with_paper, planned_cells
from tta_bench.report.panels import Panels, panels
from tta_bench.report.tables import BN_ONLY, Table
from tta_bench.schema import RunConfig

log = logging.getLogger(__name__)

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"

_TRACES = {
    "cosine": ("trace-cosine", "cosine", "Cosine of auxiliary and pseudo gradient along the stream"),
    "lr": ("trace-lr", "learning rate", "Learning rate along the stream"),
}
"""Column of ``per_image.csv`` -> name, axis label and title of its figure."""

_PREDICTS = {
    "after": "An image is predicted after the update that it causes.",
    "before": "An image is predicted before the update that it causes.",
}


@dataclass(frozen=True)
class Figure:
    """A figure with what is written below it.

    Attributes:
        title: heading.
        svg: the element.
        caption: how to read it.
    """

    title: str
    svg: Markup
    caption: str


class StreamKey(NamedTuple):
    """What streams have to share for their numbers to be compared image by image.

    Attributes:
        source: name of the source domain.
        target: name of the target domain.
        training: seed of the source model.
        order: of the images, as ``protocol.order``.
    """

    source: str
    target: str
    training: int
    order: int

    @classmethod
    def of(cls, config: RunConfig, target: str) -> StreamKey:
        """The key of one target of a cell with this configuration."""
        return cls(config.source, target, config.training.seed, config.protocol.order)


@dataclass(frozen=True)
class Stream:
    """One target of one finished cell.

    Attributes:
        key: what it is a stream of.
        rows: of ``per_image.csv``, in stream order.
    """

    key: StreamKey
    rows: Sequence[Mapping[str, str]]

    def column(self, name: str) -> NDArray[np.float64]:
        """``[images]``: the values of a column, NaN where there is none."""
        return np.array([float(row.get(name) or "nan") for row in self.rows])


@dataclass(frozen=True)
class Drawings:
    """All that is drawn of a table.

    Attributes:
        figures: that the finished cells have values for.
        panels: the segmentations; None if there are none.
        panels_fault: why there are none, else empty.
    """

    figures: Sequence[Figure]
    panels: Panels | None
    panels_fault: str

    def files(self) -> dict[str, str | bytes]:
        """Each as a file of its own, by name: SVG, and the panels as WebP."""
        files: dict[str, str | bytes] = {
            f"{figure.title.lower().replace(' ', '_')}.svg": standalone(str(figure.svg)) for figure in self.figures
        }
        return files if self.panels is None else files | {"panels.webp": self.panels.webp()}


def draw(table: Table, source: str | None = None, images: Sequence[tuple[str, str]] | None = None) -> Drawings:
    """Draw a table, finished or not.

    Args:
        table: with the plan, whose cell folders have the values of the figures.
        source: of the panels, see :func:`tta_bench.report.panels.panels`.
        images: of the panels, likewise.

    Raises:
        UserError: the source or images asked for cannot be shown.
    """
    shown, fault = _panels(table, source, images)
    try:
        drawn = figures(table, read_streams(table))
    except Exception as error:  # the table stands without them
        log.warning("the report has no figures, because drawing them failed: %s: %s", type(error).__name__, error)
        drawn = []
    return Drawings(drawn, shown, fault)


def html_page(table: Table, drawn: Drawings | None = None) -> str:
    """A whole page that shows a table, finished or not.

    Args:
        table: with the plan.
        drawn: what is shown of it; None to draw it now.

    Returns:
        The text of an HTML file; all that it needs is inside.
    """
    drawn = drawn or draw(table)
    environment = Environment(
        loader=PackageLoader("tta_bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "p_value": p_value}
    return environment.get_template("report.html").render(
        table=table,
        bn_only=BN_ONLY,
        nothing=NOTHING,
        best=best_rows(table),
        figures=drawn.figures,
        panels=drawn.panels,
        panels_fault=drawn.panels_fault,
        protocol=protocol_sentences(table.protocol, table.data),
        commands=commands(table),
        with_bn_only=any(row.vs_bn_only for row in table.rows),
        planned=planned_cells(table),
        branch_notes=branch_notes(table),
        comparable=comparable_with_paper(table),
    )


def read_streams(table: Table) -> dict[str, list[Stream]]:
    """Row label -> the streams of its finished cells; rows without any are left out."""
    found: dict[str, list[Stream]] = {row.label: [] for row in table.rows}
    for planned in table.plan.cells:
        finished = planned.cell.finished()
        rows = finished[1] if finished is not None else []
        for target in dict.fromkeys(row["target"] for row in rows):
            own = sorted((row for row in rows if row["target"] == target), key=lambda row: int(row["position"]))
            found[planned.row].append(Stream(StreamKey.of(planned.cell.config, target), own))
    return {label: streams for label, streams in found.items() if streams}


def shared_streams(streams: Mapping[str, Sequence[Stream]], reference: str) -> dict[str, list[list[Stream]]]:
    """The streams on which rows can be compared: those that all of them have finished.

    Rows that share no stream with the others are left out; the reference is kept first, then those with most streams.

    Args:
        streams: row label -> all of its streams.
        reference: label of the row that others are compared with, finished or not.

    Returns:
        Row label -> per shared stream those of its adaptation seeds, of which rows may have different ones.
    """
    found: dict[str, dict[StreamKey, list[Stream]]] = {label: {} for label in streams}
    for label, own in streams.items():
        for stream in own:
            found[label].setdefault(stream.key, []).append(stream)
    shared: set[StreamKey] = set()
    for label in sorted(found, key=lambda label: (label != reference, -len(found[label]))):
        shared = shared & found[label].keys() or shared or set(found[label])
    return {
        label: [seeds for key, seeds in own.items() if key in shared]
        for label, own in found.items()
        if shared <= own.keys()
    }


def figures(table: Table, streams: Mapping[str, Sequence[Stream]]) -> list[Figure]:
    """The figures that the finished cells have values for."""
    if not streams:
        return []
    shared = shared_streams(streams, table.reference)
    dice = {label: [_mean_over_seeds(seeds, "dice") for seeds in own] for label, own in shared.items()}
    left_out = _left_out(table, shared)
    dashed = f" Dashed: {table.reference}." if table.reference in shared else ""
    drawn = [
        Figure(
            "Dice of every image",
            Markup(dice_distributions({label: np.concatenate(values) for label, values in dice.items()})),
            "All images of the streams that every row drawn has finished, each at its mean over adaptation seeds. "
            "Shade: density; bar: the middle half; line: median; ring: mean over images, which differs from the "
            f"table's mean where targets differ in size.{left_out}",
        ),
        Figure(
            "Mean Dice along the stream",
            Markup(running_dice(dice, table.reference)),
            "Dice of all images so far, mean over the streams that every row drawn has finished. A stream that has "
            f"ended keeps its last value.{dashed}{left_out}",
        ),
    ]
    for column, (name, quantity, title) in _TRACES.items():
        values = {
            label: [stream.column(column) for stream in own]
            for label, own in streams.items()
            if any(_has(stream, column) for stream in own)
        }
        if values:
            caption = (
                "Each stream is cut into 40 equal parts. Line: median of all finished streams' images; band: 10th "
                "to 90th percentile."
            )
            drawn.append(Figure(title, Markup(traces(values, name, quantity)), caption))
    cosines = _empirical_cosines(table, streams)
    if cosines:
        drawn.append(
            Figure(
                "Cosine with the supervised gradient",
                Markup(empirical_cosine(cosines)),
                "Cosine between the gradient that a row follows and that of the supervised cross-entropy, which no "
                "method sees: mean over targets with its 95\N{NO-BREAK SPACE}% interval, images as independent. Bars "
                "of a source are of the same streams. As Figure 4 of the GraTa paper.",
            )
        )
    return drawn


def _empirical_cosines(table: Table, streams: Mapping[str, Sequence[Stream]]) -> dict[str, dict[str, Any]]:
    """Row label -> source -> estimate, for rows that have the diagnostic."""
    rows: dict[str, dict[str, Any]] = {}
    for source in table.sources:
        measured = {
            label: [each for each in own if each.key.source == source and _has(each, "cosine_empirical")]
            for label, own in streams.items()
        }
        for label, shared in shared_streams(measured, table.reference).items():
            values = [_mean_over_seeds(seeds, "cosine_empirical") for seeds in shared]
            finite = [each[np.isfinite(each)] for each in values]
            if any(len(each) for each in finite):
                rows.setdefault(label, {})[source] = mean_of_targets([each for each in finite if len(each)])
    return {label: rows[label] for label in streams if label in rows}


def _has(stream: Stream, column: str) -> bool:
    return bool(np.isfinite(stream.column(column)).any())


def _mean_over_seeds(streams: Sequence[Stream], column: str) -> NDArray[np.float64]:
    """``[images]``: so that a row counts every stream once, however many of its adaptation seeds are finished."""
    return np.asarray(np.mean([stream.column(column) for stream in streams], axis=0))


def _left_out(table: Table, shared: Mapping[str, Sequence[Sequence[Stream]]]) -> str:
    """A sentence on what is planned but not among the shared streams, after a space; empty if all is there."""
    drawn = {seeds[0].key for own in shared.values() for seeds in own}
    planned = {
        StreamKey.of(config, target)
        for config in (planned.cell.config for planned in table.plan.cells)
        for target in table.targets[config.source]
    }
    with_any, with_gaps = ({key.source for key in keys} for keys in (drawn, planned - drawn))
    names = {
        "row": [row.label for row in table.rows if row.label not in shared],
        "source": [source for source in table.sources if source not in with_any],
        "some repeats of source": [source for source in table.sources if source in with_any & with_gaps],
    }
    parts = [f"{kind}{'s' * (len(found) > 1)} {', '.join(found)}" for kind, found in names.items() if found]
    return f" Not drawn, because not every row has finished the same streams: {'; '.join(parts)}." if parts else ""


def _panels(table: Table, source: str | None, images: Sequence[tuple[str, str]] | None) -> tuple[Panels | None, str]:
    """The panels, or why there are none; what was asked for by name has to be there."""
    try:
        return panels(table, source, images), ""
    except UserError as error:
        if source is not None or images is not None:
            raise
        return None, " ".join(f"{fault[0].upper()}{fault[1:]}." for fault in error.faults)
    except Exception as error:
        if source is not None or images is not None:
            raise
        log.warning("the report has no segmentations, because drawing them failed: %s: %s", type(error).__name__, error)
        return None, f"Drawing them failed ({type(error).__name__}: {error})."


def best_rows(table: Table) -> dict[str, set[str]]:
    """Column -> labels of the rows with the highest Dice there, ties included."""
    best = {}
    for column in table.columns:
        values = {row.label: row.result(column).dice for row in table.rows}
        known = {label: round(value, 2) for label, value in values.items() if value is not None}
        best[column] = {label for label, value in known.items() if value == max(known.values())}
    return best


def protocol_sentences(protocol: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    """The protocol in words; of a value that rows vary, all that occur.

    Args:
        protocol: the section of the configuration; tuples where rows differ on purpose.
        data: the section of the images, likewise.
    """

    def told(values: Any, sentence: Callable[[Any], str]) -> str:
        if isinstance(values, tuple):
            return "Rows differ: " + " / ".join(sentence(value) for value in values)
        return sentence(values)

    classes = data["classes"]
    images = f"Images: {_alternatives(data['name'])}, {_alternatives(data['image_size'])} pixels square"
    limit = "" if data["limit"] is None else f", the first {_alternatives(data['limit'])} of each domain"
    names = f"; classes: {', '.join(classes)}." if isinstance(classes, Mapping) else "; classes differ between rows."
    return [
        f"{images}{limit}{names}",
        told(protocol["reset"], lambda value: scenario_of(value).sentence),
        told(protocol["steps"], lambda value: f"{value} update{'s' * (value != 1)} per image, one image at a time."),
        told(protocol["predict"], lambda value: _PREDICTS[value]),
        told(
            protocol["order"],
            lambda value: f"Images come in random order {value}." if value else "Images come in file order.",
        ),
        f"A probability counts as the class from {_alternatives(protocol['threshold'])}.",
        "Dice in percent: mean over the images of a target, then over classes, then over targets; the average is the "
        "unweighted mean over the sources.",
    ]


def _alternatives(value: Any) -> str:
    return " or ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def commands(table: Table) -> list[str]:
    """What to type to compute and to report the table again."""
    name = table.plan.experiment.name
    overrides = table.plan.overrides
    reference = [] if table.reference == table.plan.experiment.reference else ["--reference", table.reference]
    return [
        shlex.join(["python", "-m", "tta_bench", f"experiment={name}", *overrides]),
        shlex.join(["tta-bench", "report", name, *overrides, *reference]),
    ]


def number(value: float | None, digits: int = 2) -> str:
    """Digits after the point; a dash for what is not known."""
    return NOTHING if value is None or math.isnan(value) else f"{value:,.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 2) -> str:
    """With its sign, which zero has not."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def p_value(value: float) -> str:
    """Three digits, or that it is below them."""
    if math.isnan(value):
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
