"""Figures of a report: pure functions from numbers to SVG, to stand inline in a page or in a file of their own.

Text and axes are drawn in ``currentColor`` on a transparent background, so that a figure takes the colours of a light
or a dark page; :func:`standalone` gives it colours of its own. Marks use :data:`PALETTE`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal
from xml.sax.saxutils import escape

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d

from tta_bench.metrics.base import Metric
from tta_bench.report.statistics import Estimate, by_part, running_mean

PALETTE: Final = ("#0a7abf", "#d55e00", "#00946c", "#c2569a", "#a67c00", "#3c93cc", "#8273e6", "#808080")
"""Colours in the order of Okabe and Ito, shifted to a contrast of at least 3 on white and on near-black alike."""

_INK: Final = "#010203"
"""Stands for ``currentColor`` while Matplotlib draws: a colour that nothing else has."""

_GROUND: Final = (
    "<style>svg { color: #1c2126 } .ground { fill: #ffffff } @media (prefers-color-scheme: dark) "
    "{ svg { color: #e7eaed } .ground { fill: #14171a } }</style>"
    '<rect class="ground" width="100%" height="100%"/>'
)
"""Where there is no page to take the colours from: those of the report."""

_HATCHES: Final = ("", "////", "....", "xxxx")  # with more rows than colours
_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tta_bench",  # the same numbers give the same file
    "text.parse_math": False,  # a name with dollar signs is a name
    "font.family": ["DejaVu Sans"],  # what the layout is measured with; pages may use a narrower one
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.prop_cycle": cycler(color=PALETTE),
    "hatch.linewidth": 0.5,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
    "hatch.color": _INK,
}
_WIDTH: Final = 7.5  # inches
_COLUMNS: Final = 3  # of small multiples
_CURVE_POINTS: Final = 120
_PARTS: Final = 40


def distributions(values: Mapping[str, ArrayLike], metric: Metric) -> str:
    """Per row the distribution over the images: density, quartiles, median and mean.

    Args:
        values: row label -> value of every image.
        metric: what they are values of.

    Returns:
        The SVG element.
    """
    with _style():
        figure = Figure(figsize=(_WIDTH, 0.75 + 0.42 * len(values)), layout="constrained")
        axes = figure.add_subplot()
        samples = {label: np.asarray(row, dtype=float) for label, row in values.items()}
        finite = np.concatenate([row[np.isfinite(row)] for row in samples.values()])
        whole = metric.unit == "%" and metric.direction == "higher"
        limits = (0.0, 100.0) if whole else (min(0.0, finite.min(initial=0.0)), finite.max(initial=0.0) or 1.0)
        samples = {label: row[np.isfinite(row)] for label, row in samples.items()}
        for place, row in enumerate(samples.values()):
            if len(row):
                _distribution(axes, row, place, limits)
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.set_xlim(limits)
        axes.set_xlabel(_axis(f"{metric.title} of an image", metric))
        _grid(axes, "x")
        digits = metric.digits - 1
        parts = [
            f"{label}: median {np.median(row):.{digits}f}, mean {np.mean(row):.{digits}f}"
            if len(row)
            else f"{label}: none"
            for label, row in samples.items()
        ]
        description = f"Distribution for each row. {', '.join(parts)}."
        return _svg(figure, f"{metric.name}-distributions", f"{metric.title} per image", description)


def running_means(streams: Mapping[str, Sequence[ArrayLike]], metric: Metric, reference: str | None = None) -> str:
    """Per row the mean of all images so far (:func:`running_mean`), as small multiples.

    Args:
        streams: row label -> streams; each has the values of its images in stream order.
        metric: what they are values of.
        reference: row that is drawn dashed into every other panel.

    Returns:
        The SVG element.
    """
    longest = max(len(np.asarray(each)) for row in streams.values() for each in row)
    positions = np.unique(np.linspace(0, longest - 1, _CURVE_POINTS).round().astype(int))
    curves = {label: running_mean(row, positions) for label, row in streams.items()}
    with _style():
        quantity = _axis(f"mean {metric.title}", metric)
        figure, panels = _small_multiples(list(curves), "images of the stream so far", quantity)
        for label, axes in panels.items():
            if reference in curves and label != reference:
                axes.plot(positions + 1, curves[reference], color=_INK, alpha=0.6, linewidth=0.9, linestyle="--")
            axes.plot(positions + 1, curves[label], color=PALETTE[0], linewidth=1.6)
        dashed = f" Dashed: {reference}." if reference in curves else ""
        digits = metric.digits - 1
        ends = ", ".join(
            f"{label} from {curve[0]:.{digits}f} to {curve[-1]:.{digits}f}" for label, curve in curves.items()
        )
        return _svg(figure, f"running-{metric.name}", f"Mean {metric.title} along the stream", f"{ends}.{dashed}")


def traces(streams: Mapping[str, Sequence[ArrayLike]], name: str, quantity: str) -> str:
    """Per row a diagnostic of the method along the stream (:func:`by_part`), as small multiples.

    Args:
        streams: row label -> streams; each has one value per image in stream order, NaN where there is none.
        name: of the figure, unique on its page: letters, digits and hyphens.
        quantity: the axis label.

    Returns:
        The SVG element.
    """
    centres = (np.arange(_PARTS) + 0.5) * 100 / _PARTS
    bands = {label: by_part(row, _PARTS) for label, row in streams.items()}
    with _style():
        figure, panels = _small_multiples(list(bands), "part of the stream in %", quantity)
        for label, axes in panels.items():
            median, low, high = bands[label]
            some = np.isfinite(median)
            axes.fill_between(centres[some], low[some], high[some], color=PALETTE[0], alpha=0.25, linewidth=0)
            axes.plot(centres[some], median[some], color=PALETTE[0], linewidth=1.6)
            axes.set_xlim(0, 100)
        medians = ", ".join(f"{label}: {np.nanmedian(band[0]):.3g}" for label, band in bands.items())
        return _svg(figure, name, f"{quantity} along the stream", f"Median over the stream: {medians}.")


def empirical_cosine(rows: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Cosine between the followed and the supervised gradient, as in Figure 4 of the GraTa paper.

    Args:
        rows: row label -> source domain -> mean cosine with its interval.

    Returns:
        The SVG element: a group of bars per source, one bar per row.
    """
    sources = list(dict.fromkeys(source for row in rows.values() for source in row))
    with _style():
        figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(rows)
        for number, (label, row) in enumerate(rows.items()):
            places = np.array([sources.index(source) for source in row]) - 0.4 + (number + 0.5) * width
            means = np.array([each.mean for each in row.values()])
            low, high = (np.array([getattr(each, end) for each in row.values()]) for end in ("low", "high"))
            axes.bar(
                places,
                means,
                width * 0.92,
                label=label,
                color=PALETTE[number % len(PALETTE)],
                hatch=_HATCHES[number // len(PALETTE) % len(_HATCHES)],
                yerr=np.nan_to_num(np.stack([means - low, high - means])),
                error_kw={"ecolor": _INK, "elinewidth": 0.9, "capsize": 2},
            )
        axes.axhline(0, color=_INK, linewidth=0.6)
        axes.set_xticks(range(len(sources)), sources)
        axes.set_xlabel("source domain")
        axes.set_ylabel("cosine similarity")
        _grid(axes, "y")
        columns = _legend_columns(list(rows), figure.get_figwidth())
        figure.legend(loc="outside upper center", ncols=columns, frameon=False)
        description = "; ".join(
            f"{label}: " + ", ".join(f"{source} {each.mean:.3f}" for source, each in row.items())
            for label, row in rows.items()
        )
        return _svg(figure, "empirical-cosine", "Cosine between followed and supervised gradient", f"{description}.")


def _legend_columns(labels: Sequence[str], inches: float) -> int:
    """How many columns of a legend fit into a width; a letter is taken to be 0.6 of its size, a key 3 letters."""
    letter = 0.6 * float(mpl.rcParams["font.size"]) / 72
    longest = max(len(label) for label in labels)
    return max(1, min(len(labels), int(inches / (letter * (longest + 6)))))


def standalone(svg: str) -> str:
    """A figure as a file of its own, light or dark as its reader prefers.

    Inside ``<img>`` nothing of the page around it is known, so it brings its background along.
    """
    return svg.replace("</desc>", f"</desc>{_GROUND}", 1)


@contextmanager
def _style() -> Iterator[None]:
    """The look of all figures, without a trace in Matplotlib's global settings."""
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user's matplotlibrc says
        mpl.rcParams.update(_STYLE)
        yield


def _axis(quantity: str, metric: Metric) -> str:
    """The label of an axis."""
    unit = f" in {metric.unit}" if metric.unit else ""
    return f"{quantity}{unit}{', lower is better' if metric.direction == 'lower' else ''}"


def _distribution(axes: Axes, values: NDArray[np.float64], place: int, limits: tuple[float, float]) -> None:
    """A horizontal violin with the quartiles, the median (line) and the mean (ring)."""
    grid = np.linspace(*limits, 201)
    counts, _ = np.histogram(values, bins=len(grid), range=limits)
    density = gaussian_filter1d(counts.astype(float), 3, mode="constant")  # a standard deviation of 1.5 % of the axis
    density *= 0.4 / density.max() if density.max() > 0 else 0
    axes.fill_between(grid, place - density, place + density, color=PALETTE[0], alpha=0.3, linewidth=0)
    lower, median, upper = np.percentile(values, (25, 50, 75))
    axes.plot([lower, upper], [place, place], color=PALETTE[0], linewidth=5, solid_capstyle="butt")
    axes.plot([median, median], [place - 0.2, place + 0.2], color=_INK, linewidth=1.6)
    axes.plot([values.mean()], [place], linestyle="", marker="o", markersize=5, color=_INK, markerfacecolor="none")


def _small_multiples(labels: Sequence[str], x: str, y: str) -> tuple[Figure, dict[str, Axes]]:
    """A panel per label, all with the same axes; only this tells dozens of rows apart."""
    columns = 2 if len(labels) == 4 else min(_COLUMNS, len(labels))
    lines = -(-len(labels) // columns)
    figure = Figure(figsize=(0.4 + (_WIDTH - 0.4) * columns / _COLUMNS, 0.5 + 1.55 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(labels) :]:
        axes.remove()
    for number, axes in enumerate(grid.flat[: len(labels)]):
        axes.set_title(labels[number], fontsize=9, loc="left")
        axes.tick_params(labelbottom=number + columns >= len(labels))
        _grid(axes, "y")
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    return figure, dict(zip(labels, grid.flat, strict=False))


def _grid(axes: Axes, axis: Literal["x", "y"]) -> None:
    axes.grid(axis=axis, color=_INK, alpha=0.15, linewidth=0.6)
    axes.set_axisbelow(True)


def _svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an SVG element with a title and a description, all of its identifiers beginning with ``name``."""
    file = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    text = file.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :].replace(_INK, "currentColor")
    # Its style sheet speaks of all elements, which inside a page are those of the page.
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    width, height = (round(72 * side, 3) for side in figure.get_size_inches())
    style = f"width: 100%; min-width: {width}px; max-width: {1.6 * width:.0f}px; stroke-linejoin: round"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" class="figure" role="img" '
        f'viewBox="0 0 {width} {height}" style="{style}" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>{body}'
    )
