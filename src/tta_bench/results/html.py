"""The report as one HTML page: no network, no script needed, light and dark, narrow and wide."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from tta_bench.errors import UserError
from tta_bench.results.figures import (
    dice_distributions,
    empirical_cosine,
    mean_of_targets,
    running_dice,
    traces,
)
from tta_bench.results.formats import comparable_with_paper
from tta_bench.results.panels import Panels, panels
from tta_bench.results.store import CellFolder
from tta_bench.results.tables import BN_ONLY, Table

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"

_TRACES = {
    "cosine": ("trace-cosine", "cosine", "Cosine of auxiliary and pseudo gradient along the stream"),
    "lr": ("trace-lr", "learning rate", "Learning rate along the stream"),
}
"""Column of ``per_image.csv`` -> name, axis label and title of its figure."""

_RESETS = {
    "target": "The state starts anew from the source model on every target domain.",
    "image": "The state starts anew from the source model on every image.",
    "never": "One state lives through all target domains, in their order.",
}
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


@dataclass(frozen=True)
class Stream:
    """The rows of one target of one finished cell, in stream order.

    Attributes:
        source: name of the source domain.
        target: name of the target domain.
        rows: of ``per_image.csv``.
    """

    source: str
    target: str
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
            f"{figure.title.lower().replace(' ', '_')}.svg": figure.svg for figure in self.figures
        }
        return files if self.panels is None else files | {"panels.webp": self.panels.webp()}


def draw(table: Table, source: str | None = None, images: Sequence[tuple[str, str]] | None = None) -> Drawings:
    """Draw a table, finished or not.

    Args:
        table: with the plan, whose cell folders have the values of the figures.
        source: of the panels, see :func:`tta_bench.results.panels.panels`.
        images: of the panels, likewise.

    Raises:
        UserError: the source or images asked for cannot be shown.
    """
    return Drawings(figures(table, read_streams(table)), *_panels(table, source, images))


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
        loader=PackageLoader("tta_bench.results"),
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
        planned=len(table.plan.cells),
        comparable=comparable_with_paper(table),
    )


def read_streams(table: Table) -> dict[str, list[Stream]]:
    """Row label -> the streams of its finished cells; rows without any are left out."""
    found: dict[str, list[Stream]] = {row.label: [] for row in table.rows}
    for planned in table.plan.cells:
        folder: CellFolder = planned.cell.folder()
        if folder.summary() is None:
            continue
        rows = folder.rows()
        for target in dict.fromkeys(row["target"] for row in rows):
            own = sorted((row for row in rows if row["target"] == target), key=lambda row: int(row["position"]))
            found[planned.row].append(Stream(planned.cell.config.source, target, own))
    return {label: streams for label, streams in found.items() if streams}


def figures(table: Table, streams: Mapping[str, Sequence[Stream]]) -> list[Figure]:
    """The figures that the finished cells have values for."""
    if not streams:
        return []
    dice = {label: [stream.column("dice") for stream in own] for label, own in streams.items()}
    drawn = [
        Figure(
            "Dice of every image",
            Markup(dice_distributions({label: np.concatenate(values) for label, values in dice.items()})),
            "All images of all finished cells of a row. Shade: density; bar: the middle half; line: median; ring: mean "
            "over images, which differs from the table's mean where targets differ in size.",
        ),
        Figure(
            "Mean Dice along the stream",
            Markup(running_dice(dice, table.reference)),
            f"Mean over streams of the Dice of all images so far. Dashed: {table.reference}. A stream that has ended "
            "keeps its last value.",
        ),
    ]
    for column, (name, quantity, title) in _TRACES.items():
        values = {label: [stream.column(column) for stream in own] for label, own in streams.items()}
        values = {label: own for label, own in values.items() if any(np.isfinite(each).any() for each in own)}
        if values:
            caption = (
                "Each stream is cut into 40 equal parts. Line: median of all streams' images; band: 10th to 90th "
                "percentile."
            )
            drawn.append(Figure(title, Markup(traces(values, name, quantity)), caption))
    cosines = _empirical_cosines(table, streams)
    if cosines:
        drawn.append(
            Figure(
                "Cosine with the supervised gradient",
                Markup(empirical_cosine(cosines)),
                "Cosine between the gradient that a row follows and that of the supervised cross-entropy, which no "
                "method sees: mean over targets with its 95\N{NO-BREAK SPACE}% interval, images as independent. As "
                "Figure 4 of the GraTa paper.",
            )
        )
    return drawn


def _empirical_cosines(table: Table, streams: Mapping[str, Sequence[Stream]]) -> dict[str, dict[str, Any]]:
    """Row label -> source -> estimate, for rows that have the diagnostic."""
    rows: dict[str, dict[str, Any]] = {}
    for label, own in streams.items():
        for source in table.sources:
            values = [stream.column("cosine_empirical") for stream in own if stream.source == source]
            finite = [each[np.isfinite(each)] for each in values]
            if any(len(each) for each in finite):
                rows.setdefault(label, {})[source] = mean_of_targets([each for each in finite if len(each)])
    return rows


def _panels(table: Table, source: str | None, images: Sequence[tuple[str, str]] | None) -> tuple[Panels | None, str]:
    """The panels, or why there are none; what was asked for by name has to be there."""
    try:
        return panels(table, source, images), ""
    except UserError as error:
        if source is not None or images is not None:
            raise
        return None, " ".join(f"{fault[0].upper()}{fault[1:]}." for fault in error.faults)


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
        told(protocol["reset"], lambda value: _RESETS[value]),
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
