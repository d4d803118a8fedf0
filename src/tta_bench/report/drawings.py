"""All that is drawn of a table: figures and segmentations."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from tta_bench.errors import UserError
from tta_bench.report.canvas import standalone
from tta_bench.report.comparisons import comparisons
from tta_bench.report.figures import distributions, empirical_cosine, running_means, traces
from tta_bench.report.model import Drawings, Figure, Panels, Table
from tta_bench.report.panels import panels
from tta_bench.report.statistics import Estimate, mean_of_targets
from tta_bench.report.streams import Stream, has_values, left_out, mean_over_seeds, shared_streams, streams_of

log = logging.getLogger(__name__)


_TRACES = {
    "cosine": ("trace-cosine", "cosine", "Cosine of auxiliary and pseudo gradient along the stream"),
    "lr": ("trace-lr", "learning rate", "Learning rate along the stream"),
}
"""Column of ``per_image.csv`` -> name, axis label and title of its figure."""


def draw(table: Table, source: str | None = None, images: Sequence[tuple[str, str]] | None = None) -> Drawings:
    """Draw a table, finished or not.

    Args:
        table: whose finished cells have the values of the figures.
        source: of the panels, see :func:`tta_bench.report.panels.panels`.
        images: of the panels, likewise.

    Raises:
        UserError: the source or images asked for cannot be shown.
    """
    shown, fault = _panels(table, source, images)
    try:
        drawn = [*comparisons(table), *figures(table, streams_of(table))]
    except Exception as error:  # the table stands without them
        log.warning("the report has no figures, because drawing them failed: %s: %s", type(error).__name__, error)
        drawn = []
    return Drawings(drawn, shown, fault)


def figures(table: Table, streams: Mapping[str, Sequence[Stream]]) -> list[Figure]:
    """The figures of images and streams that the finished cells have values for."""
    if not streams:
        return []
    metric = table.metric
    shared = shared_streams(streams, table.reference)
    values = {label: [mean_over_seeds(seeds, metric.name) for seeds in row] for label, row in shared.items()}
    gaps = left_out(table, shared)
    dashed = f" Dashed: {table.reference}." if table.reference in shared else ""
    drawn = [
        Figure(
            f"{metric.title} of every image",
            distributions({label: np.concatenate(row) for label, row in values.items()}, metric),
            "All images of the streams that every row drawn has finished, each at its mean over adaptation seeds. "
            "Shade: density; bar: the middle half; line: median; ring: mean over images, which differs from the "
            f"table's mean where targets differ in size.{gaps}",
        ),
        Figure(
            f"Mean {metric.title} along the stream",
            running_means(values, metric, table.reference),
            f"{metric.title} of all images so far, mean over the streams that every row drawn has finished. A stream "
            f"that has ended keeps its last value.{dashed}{gaps}",
        ),
    ]
    for column, (name, quantity, title) in _TRACES.items():
        traced = {
            label: [stream.column(column) for stream in row]
            for label, row in streams.items()
            if any(has_values(stream, column) for stream in row)
        }
        if traced:
            caption = (
                "Each stream is cut into 40 equal parts. Line: median of all finished streams' images; band: 10th "
                "to 90th percentile."
            )
            drawn.append(Figure(title, traces(traced, name, quantity), caption))
    cosines = _empirical_cosines(table, streams)
    if cosines:
        caption = (
            "Cosine between the gradient that a row follows and that of the supervised cross-entropy, which no "
            "method sees: mean over targets with its 95\N{NO-BREAK SPACE}% interval, images as independent. Bars "
            "of a source are of the same streams. As Figure 4 of the GraTa paper."
        )
        drawn.append(Figure("Cosine with the supervised gradient", empirical_cosine(cosines), caption))
    return drawn


def _empirical_cosines(table: Table, streams: Mapping[str, Sequence[Stream]]) -> dict[str, dict[str, Estimate]]:
    """Row label -> source -> estimate, for rows that have the diagnostic."""
    rows: dict[str, dict[str, Estimate]] = {}
    for source in table.sources:
        measured = {
            label: [each for each in row if each.key.source == source and has_values(each, "cosine_empirical")]
            for label, row in streams.items()
        }
        for label, shared in shared_streams(measured, table.reference).items():
            values = [mean_over_seeds(seeds, "cosine_empirical") for seeds in shared]
            finite = [each[np.isfinite(each)] for each in values if np.isfinite(each).any()]
            if finite:
                rows.setdefault(label, {})[source] = mean_of_targets(finite)
    return {label: rows[label] for label in streams if label in rows}


def _panels(table: Table, source: str | None, images: Sequence[tuple[str, str]] | None) -> tuple[Panels | None, str]:
    """The panels, or why there are none; what was asked for by name has to be there."""
    try:
        return panels(table, source, images), ""
    except Exception as error:
        if source is not None or images is not None:
            raise
        if isinstance(error, UserError):
            return None, " ".join(f"{fault[0].upper()}{fault[1:]}." for fault in error.faults)
        log.warning("the report has no segmentations, because drawing them failed: %s: %s", type(error).__name__, error)
        return None, f"Drawing them failed ({type(error).__name__}: {error})."


def picture_files(drawn: Drawings) -> dict[str, str | bytes]:
    """Each as a file of its own, by name: SVG and PDF, and the panels as WebP."""
    files: dict[str, str | bytes] = {}
    for figure in drawn.figures:
        files |= {f"{figure.file}.svg": standalone(figure.picture.svg), f"{figure.file}.pdf": figure.picture.pdf}
    return files if drawn.panels is None else files | {"panels.webp": drawn.panels.webp()}
