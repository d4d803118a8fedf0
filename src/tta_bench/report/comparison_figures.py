"""Figures of how rows compare: where, how surely, from how many images, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from tta_bench.metrics.base import Metric
from tta_bench.report.canvas import INK, PALETTE, WIDTH, axis_label, grid_lines, picture, style
from tta_bench.report.model import AVERAGE, Comparison, Picture
from tta_bench.report.statistics import Reliability
from tta_bench.report.text import DASH
from tta_bench.runtime.names import distinct

_BETTER, _WORSE = PALETTE[:2]
"""Blue and vermilion, which nearly everybody tells apart."""

_STRONGEST: Final = 0.65
"""Opacity of the largest difference: numbers can still be read upon it, on a light and on a dark page."""

_LINE: Final = 0.21  # inches of a line of text


def heat_map(
    differences: Mapping[str, Mapping[str, float]], means: Mapping[str, float], metric: Metric, reference: str
) -> Picture:
    """Every row minus the reference on every target, as numbers and as colours around zero.

    Args:
        differences: row label -> target -> mean difference; a target may be missing.
        means: row label -> its average difference.
        metric: what they are differences of.
        reference: label of the row that was subtracted.

    Returns:
        The figure.
    """
    targets = list(dict.fromkeys(target for row in differences.values() for target in row))
    table = np.array([[row.get(target, np.nan) for target in targets] for row in differences.values()])
    table = np.column_stack([table, [means[label] for label in differences]])
    places = [*map(float, range(len(targets))), len(targets) + 0.25]  # the average stands apart
    largest = float(np.nanmax(np.abs(table))) or 1.0
    slanted = max(map(len, targets)) > 7
    with style():
        width = max(WIDTH, 1.8 + 0.62 * len(places))
        figure = Figure(figsize=(width, 0.75 + 0.55 * slanted + 0.3 * len(table)), layout="constrained")
        axes = figure.add_subplot()
        cells = [(place, row, table[row, column]) for row in range(len(table)) for column, place in enumerate(places)]
        for place, row, value in cells:
            if np.isfinite(value):
                better = _gain(value, metric) > 0
                colour, opacity = _BETTER if better else _WORSE, _STRONGEST * abs(value) / largest
                axes.add_patch(
                    Rectangle((place - 0.48, row - 0.46), 0.96, 0.92, color=colour, alpha=opacity, linewidth=0)
                )
            axes.text(place, row, _signed(value), ha="center", va="center", fontsize=8.5)
        axes.set_xlim(-0.5, places[-1] + 0.5)
        axes.set_ylim(len(table) - 0.5, -0.5)
        axes.set_yticks(range(len(table)), list(differences))
        axes.set_xticks(
            places,
            [*targets, distinct(AVERAGE, targets)],
            rotation=30 if slanted else 0,
            ha="left" if slanted else "center",
        )
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(axis_label(f"{metric.title} minus {reference}", metric, difference=True))
        told = []
        for label, by_target in differences.items():
            numbers = [
                *(f"{target} {value:+.1f}" for target, value in by_target.items()),
                f"average {means[label]:+.1f}",
            ]
            told.append(f"{label}: {', '.join(numbers)}")
        return picture(
            figure, f"{metric.name}-heat-map", f"{metric.title} minus {reference} by target", f"{'; '.join(told)}."
        )


def _signed(value: float) -> str:
    """With one digit and its sign, which zero has not.

    >>> _signed(1.26), _signed(-0.04)
    ('+1.3', '0.0')
    """
    if not np.isfinite(value):
        return DASH
    text = f"{value:+.1f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def intervals(comparisons: Mapping[str, Mapping[str, Comparison]], metric: Metric) -> Picture:
    """Average differences with their 95 % intervals, best row first.

    Args:
        comparisons: label of the row compared with -> row label -> comparison; a panel for each, sorted by the first.
        metric: what they are differences of.

    Returns:
        The figure; a filled mark is a difference with a corrected p-value below 0.05.
    """
    first = next(iter(comparisons.values()))
    labels = sorted(
        dict.fromkeys(label for panel in comparisons.values() for label in panel),
        key=lambda label: -_gain(first[label].mean, metric) if label in first else np.inf,
    )
    with style():
        figure = Figure(figsize=(WIDTH, 0.8 + 0.27 * len(labels)), layout="constrained")
        panels = figure.subplots(1, len(comparisons), sharey=True, squeeze=False)[0]
        for axes, (against, rows) in zip(panels, comparisons.items(), strict=True):
            axes.axvline(0, color=INK, linewidth=0.8)
            for place, label in enumerate(labels):
                if label in rows:
                    _interval(axes, rows[label], place, metric)
            axes.set_xlabel(axis_label(f"{metric.title} minus {against}", metric, difference=True))
            axes.xaxis.set_major_locator(MaxNLocator(5))
            grid_lines(axes, "x")
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(labels)), labels)
        panels[0].set_ylim(len(labels) - 0.5, -0.5)
        told = "; ".join(
            f"minus {against}: "
            + ", ".join(f"{label} {each.mean:+.2f} [{each.low:+.2f}, {each.high:+.2f}]" for label, each in rows.items())
            for against, rows in comparisons.items()
        )
        return picture(figure, f"{metric.name}-intervals", f"Average {metric.title} with 95 % intervals", f"{told}.")


def _interval(axes: Axes, comparison: Comparison, place: int, metric: Metric) -> None:
    mean, low, high = comparison.mean, comparison.low, comparison.high
    colour = _BETTER if _gain(mean, metric) > 0 else _WORSE
    if np.isfinite(low):
        axes.plot([low, high], [place, place], color=colour, alpha=0.45, linewidth=4, solid_capstyle="butt")
    filled = colour if comparison.p_holm < 0.05 else "none"
    axes.plot([mean], [place], linestyle="", marker="o", markersize=6, color=colour, markerfacecolor=filled)


def image_numbers(measured: Reliability, metric: Metric) -> Picture:
    """How sure an average over fewer images is: widths of intervals, and whether rows keep their order.

    Args:
        measured: of the rows.
        metric: what they are averages of.

    Returns:
        The figure.
    """
    with style():
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        for widths in measured.widths:
            left.plot(measured.images, widths, color=INK, alpha=0.35, linewidth=0.7)
        median = np.median(measured.widths, axis=0)
        left.plot(measured.images, median, color=_BETTER, linewidth=2, marker="o", markersize=3.5)
        left.set_ylabel(axis_label("width of the 95 % interval", metric, difference=True))
        left.set_ylim(bottom=0)
        right.plot(measured.images, 100 * measured.same_order, color=_BETTER, linewidth=2, marker="o", markersize=3.5)
        right.plot(
            measured.images,
            100 * measured.same_best,
            color=_WORSE,
            linewidth=2,
            linestyle="--",
            marker="s",
            markersize=3.5,
        )
        right.set_ylabel("in % of all draws")
        right.set_ylim(0, 103)
        for axes in (left, right):
            axes.set_xscale("log")
            _plain_ticks(axes, measured.images)
            axes.set_xlabel("images")
            grid_lines(axes, "y")
        right.legend(["pairs of rows in the same order", "same best row"], frameon=False, loc="lower right")
        told = ", ".join(
            f"{images} images: median width {width:.2f}, same order {order:.0%}, same best {best:.0%}"
            for images, width, order, best in zip(
                measured.images, median, measured.same_order, measured.same_best, strict=True
            )
        )
        return picture(figure, f"{metric.name}-image-numbers", "Reliability of the average", f"{told}.")


class Priced(NamedTuple):
    """What a row gains and costs per image."""

    gain: float  # in the unit of the metric, over the reference
    passes: float  # forward and backward, of the network
    milliseconds: float


def costs_and_gains(rows: Mapping[str, Priced], metric: Metric, reference: str) -> Picture:
    """What every row gains over the reference against what it costs.

    Args:
        rows: row label -> its numbers, at least one.
        metric: what is gained.
        reference: label of the row that is at zero.

    Returns:
        The figure: two panels of the same heights, each row at the same height in both, named at the right edge.
    """
    gains = np.array([each.gain for each in rows.values()])
    with style():
        height = max(2.9, 0.9 + _LINE * len(rows))
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, quantity, costs in (
            (left, "passes of the network per image", [each.passes for each in rows.values()]),
            (right, "milliseconds per image", [each.milliseconds for each in rows.values()]),
        ):
            axes.axhline(0, color=INK, linewidth=0.8)
            best = _undominated(costs, [_gain(gain, metric) for gain in gains])
            for cost, gain, filled in zip(costs, gains, best, strict=True):
                face = _BETTER if filled else "none"
                axes.plot([cost], [gain], linestyle="", marker="o", markersize=6, color=_BETTER, markerfacecolor=face)
            axes.set_xscale("log")
            _plain_ticks(axes, costs)
            axes.set_xlabel(quantity)
            grid_lines(axes, "y")
        margin = 0.06 * (np.ptp(gains) or 1.0)
        right.set_ylim(gains.min() - margin, gains.max() + margin)
        left.set_ylabel(axis_label(f"{metric.title} minus {reference}", metric, difference=True))
        _names_at_the_edge(right, rows, height)
        told = "; ".join(
            f"{label}: {each.gain:+.2f}, {each.passes:.1f} passes, {each.milliseconds:.0f} ms"
            for label, each in rows.items()
        )
        return picture(figure, f"{metric.name}-costs-and-gains", "Gain against cost", f"{told}.")


def _names_at_the_edge(axes: Axes, rows: Mapping[str, Priced], inches: float) -> None:
    """Write the labels in a column beside the axes, as near to the heights of their marks as they fit."""
    low, high = axes.get_ylim()
    order = sorted(rows, key=lambda label: rows[label].gain)
    wanted = np.array([(rows[label].gain - low) / (high - low) for label in order])
    for label, height in zip(order, spread(wanted, 0.8 * _LINE / (inches - 0.9)), strict=True):
        axes.annotate(
            label,
            xy=(rows[label].milliseconds, rows[label].gain),
            xytext=(1.06, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            arrowprops={"arrowstyle": "-", "color": INK, "alpha": 0.35, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4},
            annotation_clip=False,
        )


def spread(wanted: ArrayLike, distance: float) -> NDArray[np.float64]:
    """Places in [0, 1], at least ``distance`` apart, as near to the wanted ones as can be (least squares).

    Args:
        wanted: ascending, in [0, 1].
        distance: between two neighbours; there is room for all.

    >>> spread([0.5, 0.5, 1.0], 0.2).round(2).tolist(), spread([0.0, 0.1], 0.2).round(2).tolist()
    ([0.4, 0.6, 1.0], [0.0, 0.2])
    """
    steps = distance * np.arange(len(np.asarray(wanted)))
    free = isotonic_regression(np.asarray(wanted) - steps).x
    return np.asarray(np.clip(free, 0, 1 - steps[-1]) + steps)


def _undominated(costs: Sequence[float], gains: Sequence[float]) -> list[bool]:
    """Which rows no other beats at no higher cost."""
    pairs = list(zip(costs, gains, strict=True))
    return [not any((c <= cost and g >= gain) and (c, g) != (cost, gain) for c, g in pairs) for cost, gain in pairs]


def _gain(difference: float, metric: Metric) -> float:
    """Positive where it is better."""
    return -difference if metric.direction == "lower" else difference


def _plain_ticks(axes: Axes, values: ArrayLike) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, as plain numbers."""
    low, high = float(np.min(values)) / 1.3, float(np.max(values)) * 1.3
    if high < 2.5 * low:  # or there might be no tick
        low, high = low / 1.3, high * 1.3
    ticks = [digit * 10.0**power for power in range(-3, 9) for digit in (1, 2, 5) if low <= digit * 10.0**power <= high]
    shown = ticks[:: -(-len(ticks) // 6)]
    axes.set_xlim(low, high)
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.minorticks_off()
