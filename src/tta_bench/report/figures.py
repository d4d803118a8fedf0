"""Figures of images and streams: pure functions from numbers to pictures, for a page or a file of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d

from tta_bench.metrics.base import Metric
from tta_bench.report.canvas import INK, PALETTE, WIDTH, axis_label, grid_lines, picture, style
from tta_bench.report.model import Picture
from tta_bench.report.statistics import Estimate, by_part, running_mean

_HATCHES: Final = ("", "////", "....", "xxxx")  # with more rows than colours
_COLUMNS: Final = 3  # of small multiples
_CURVE_POINTS: Final = 120
_PARTS: Final = 40


def distributions(values: Mapping[str, ArrayLike], metric: Metric) -> Picture:
    """Per row the distribution over the images: density, quartiles, median and mean.

    Args:
        values: row label -> value of every image.
        metric: what they are values of.

    Returns:
        The figure.
    """
    with style():
        figure = Figure(figsize=(WIDTH, 0.75 + 0.42 * len(values)), layout="constrained")
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
        axes.set_xlabel(axis_label(f"{metric.title} of an image", metric))
        grid_lines(axes, "x")
        digits = metric.digits - 1
        parts = [
            f"{label}: median {np.median(row):.{digits}f}, mean {np.mean(row):.{digits}f}"
            if len(row)
            else f"{label}: none"
            for label, row in samples.items()
        ]
        description = f"Distribution for each row. {', '.join(parts)}."
        return picture(figure, f"{metric.name}-distributions", f"{metric.title} per image", description)


def running_means(streams: Mapping[str, Sequence[ArrayLike]], metric: Metric, reference: str | None = None) -> Picture:
    """Per row the mean of all images so far (:func:`running_mean`), as small multiples.

    Args:
        streams: row label -> streams; each has the values of its images in stream order.
        metric: what they are values of.
        reference: row that is drawn dashed into every other panel.

    Returns:
        The figure.
    """
    longest = max(len(np.asarray(each)) for row in streams.values() for each in row)
    positions = np.unique(np.linspace(0, longest - 1, _CURVE_POINTS).round().astype(int))
    curves = {label: running_mean(row, positions) for label, row in streams.items()}
    with style():
        quantity = axis_label(f"mean {metric.title}", metric)
        figure, panels = _small_multiples(list(curves), "images of the stream so far", quantity)
        for label, axes in panels.items():
            axes.locator_params("x", integer=True, min_n_ticks=1)
            if reference in curves and label != reference:
                axes.plot(positions + 1, curves[reference], color=INK, alpha=0.6, linewidth=0.9, linestyle="--")
            axes.plot(positions + 1, curves[label], color=PALETTE[0], linewidth=1.6)
        dashed = f" Dashed: {reference}." if reference in curves else ""
        digits = metric.digits - 1
        ends = ", ".join(
            f"{label} from {curve[0]:.{digits}f} to {curve[-1]:.{digits}f}" for label, curve in curves.items()
        )
        return picture(figure, f"running-{metric.name}", f"Mean {metric.title} along the stream", f"{ends}.{dashed}")


def traces(streams: Mapping[str, Sequence[ArrayLike]], name: str, quantity: str) -> Picture:
    """Per row a diagnostic of the method along the stream (:func:`by_part`), as small multiples.

    Args:
        streams: row label -> streams; each has one value per image in stream order, NaN where there is none.
        name: of the figure, unique on its page: letters, digits and hyphens.
        quantity: the axis label.

    Returns:
        The figure.
    """
    centres = (np.arange(_PARTS) + 0.5) * 100 / _PARTS
    bands = {label: by_part(row, _PARTS) for label, row in streams.items()}
    with style():
        figure, panels = _small_multiples(list(bands), "part of the stream in %", quantity)
        for label, axes in panels.items():
            median, low, high = bands[label]
            some = np.isfinite(median)
            axes.fill_between(centres[some], low[some], high[some], color=PALETTE[0], alpha=0.25, linewidth=0)
            axes.plot(centres[some], median[some], color=PALETTE[0], linewidth=1.6)
            axes.set_xlim(0, 100)
        medians = ", ".join(f"{label}: {np.nanmedian(band[0]):.3g}" for label, band in bands.items())
        return picture(figure, name, f"{quantity} along the stream", f"Median over the stream: {medians}.")


def empirical_cosine(rows: Mapping[str, Mapping[str, Estimate]]) -> Picture:
    """Cosine between the followed and the supervised gradient, as in Figure 4 of the GraTa paper.

    Args:
        rows: row label -> source domain -> mean cosine with its interval.

    Returns:
        The figure: a group of bars per source, one bar per row.
    """
    sources = list(dict.fromkeys(source for row in rows.values() for source in row))
    with style():
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
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
                error_kw={"ecolor": INK, "elinewidth": 0.9, "capsize": 2},
            )
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.set_xticks(range(len(sources)), sources)
        axes.set_xlabel("source domain")
        axes.set_ylabel("cosine similarity")
        grid_lines(axes, "y")
        columns = _legend_columns(list(rows), figure.get_figwidth())
        figure.legend(loc="outside upper center", ncols=columns, frameon=False)
        description = "; ".join(
            f"{label}: " + ", ".join(f"{source} {each.mean:.3f}" for source, each in row.items())
            for label, row in rows.items()
        )
        return picture(figure, "empirical-cosine", "Cosine between followed and supervised gradient", f"{description}.")


def _legend_columns(labels: Sequence[str], inches: float) -> int:
    """How many columns of a legend fit into a width; a letter is taken to be 0.6 of its size, a key 3 letters."""
    letter = 0.6 * float(mpl.rcParams["font.size"]) / 72
    longest = max(len(label) for label in labels)
    return max(1, min(len(labels), int(inches / (letter * (longest + 6)))))


def _distribution(axes: Axes, values: NDArray[np.float64], place: int, limits: tuple[float, float]) -> None:
    """A horizontal violin with the quartiles, the median (line) and the mean (ring)."""
    grid = np.linspace(*limits, 201)
    counts, _ = np.histogram(values, bins=len(grid), range=limits)
    density = gaussian_filter1d(counts.astype(float), 3, mode="constant")  # a standard deviation of 1.5 % of the axis
    density *= 0.4 / density.max() if density.max() > 0 else 0
    axes.fill_between(grid, place - density, place + density, color=PALETTE[0], alpha=0.3, linewidth=0)
    lower, median, upper = np.percentile(values, (25, 50, 75))
    axes.plot([lower, upper], [place, place], color=PALETTE[0], linewidth=5, solid_capstyle="butt")
    axes.plot([median, median], [place - 0.2, place + 0.2], color=INK, linewidth=1.6)
    axes.plot([values.mean()], [place], linestyle="", marker="o", markersize=5, color=INK, markerfacecolor="none")


def _small_multiples(labels: Sequence[str], x: str, y: str) -> tuple[Figure, dict[str, Axes]]:
    """A panel per label, all with the same axes; only this tells dozens of rows apart."""
    columns = 2 if len(labels) == 4 else min(_COLUMNS, len(labels))
    lines = -(-len(labels) // columns)
    figure = Figure(figsize=(0.4 + (WIDTH - 0.4) * columns / _COLUMNS, 0.5 + 1.55 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(labels) :]:
        axes.remove()
    for number, axes in enumerate(grid.flat[: len(labels)]):
        axes.set_title(labels[number], fontsize=9, loc="left")
        axes.tick_params(labelbottom=number + columns >= len(labels))
        grid_lines(axes, "y")
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    return figure, dict(zip(labels, grid.flat, strict=False))
