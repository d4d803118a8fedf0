"""The figure of a table whose rows vary a number: where its differences leave zero."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.figure import Figure as Drawing

from tta_bench.metrics.base import Metric
from tta_bench.report.canvas import INK, PALETTE, WIDTH, axis_label, grid_lines, picture, style
from tta_bench.report.model import BN_ONLY, Comparison, Figure, Picture, Table

_LEAST: Final = 3
"""Values of an option that make a curve."""

_FAR: Final = 5
"""Where some differences are beyond it and most within 1, the axis is logarithmic from there, not to hide these."""

_TICKS: Final = 8
"""So many values are named on the axis; of more, powers of ten."""

_MARKS: Final = "osD^vX"


class Swept(NamedTuple):
    """Rows that differ in one number."""

    option: str  # its dotted key
    curves: Mapping[str, Mapping[float, Comparison]]  # what rows share -> value -> difference


def swept(table: Table) -> list[Figure]:
    """A curve for each group of rows that differ in one number alone; none where no number has three values."""
    against = BN_ONLY if any(row.vs_bn_only is not None for row in table.rows) else table.reference
    found = swept_numbers(table)
    if found is None:
        return []
    caption = f"Each row minus {against}; bar: its 95\N{NO-BREAK SPACE}% bootstrap interval over images."
    if against == BN_ONLY:
        caption += " A curve at zero does nothing that the statistics of the test image do not do alone."
    if _most_at_zero(found):
        caption += " The vertical axis is linear between -1 and 1 and logarithmic beyond."
    name = found.option.rpartition(".")[2].replace("_", " ")
    return [Figure(f"Difference by {name}", curves(found, table.metric, against), caption)]


def swept_numbers(table: Table) -> Swept | None:
    """The option that most rows vary while all else is the same, with the differences of these rows."""
    settings: dict[str, dict[str, Any]] = {}
    for cell in table.finished:
        config = cell.cell.config
        sections = {"method": config.method, "adapt": config.adapt or {}}
        flat = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
        settings.setdefault(cell.row, flat | {"protocol.steps": config.protocol.steps})
    compared = {row.label: row.vs_bn_only or row.vs_reference for row in table.rows}
    best: Swept | None = None
    for option in sorted({key for each in settings.values() for key in each if _is_number(each[key])}):
        groups: dict[str, dict[float, Comparison]] = defaultdict(dict)
        for label, each in settings.items():
            comparison = compared.get(label)
            if comparison is not None and _is_number(each.get(option)):
                groups[_called(each, option, settings)][float(each[option])] = comparison
        curves_ = {name: dict(sorted(group.items())) for name, group in groups.items() if len(group) >= _LEAST}
        if curves_ and (best is None or _points(curves_) > _points(best.curves)):
            best = Swept(option, curves_)
    return best


def _points(curves_: Mapping[str, Mapping[float, Comparison]]) -> int:
    return sum(map(len, curves_.values()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _called(settings: Mapping[str, Any], option: str, others: Mapping[str, Mapping[str, Any]]) -> str:
    """The system and the method that come together, and what else of their settings tells their rows apart."""
    names = [settings.get(key) for key in ("adapt.name", "method.name")]
    same = [each for each in others.values() if [each.get(key) for key in ("adapt.name", "method.name")] == names]
    told = [str(name) for name in names if name not in (None, "no_adapt")] or ["no_adapt"]
    for key, value in settings.items():
        if key not in ("adapt.name", "method.name", option) and any(each.get(key) != value for each in same):
            told.append(f"{key.rpartition('.')[2].replace('_', ' ')} {value}")
    return " ".join(told)


def curves(found: Swept, metric: Metric, against: str) -> Picture:
    """Differences by a number, on a logarithmic axis where its values span more than a decade.

    Args:
        found: the rows.
        metric: what they are differences of.
        against: label of the row that was subtracted.

    Returns:
        The figure.
    """
    values = [value for curve in found.curves.values() for value in curve]
    logarithmic = min(values) > 0 and max(values) > 10 * min(values)
    with style():
        figure = Drawing(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0, color=INK, linewidth=0.8)
        for number, (name, curve) in enumerate(found.curves.items()):
            shift = 1.03 ** (number - (len(found.curves) - 1) / 2) if logarithmic else 1.0
            places, means = np.array([*curve]) * shift, np.array([each.mean for each in curve.values()])
            bars = [[each.mean - each.low, each.high - each.mean] for each in curve.values()]
            axes.errorbar(
                places,
                means,
                yerr=np.nan_to_num(np.array(bars)).T,
                color=PALETTE[number % len(PALETTE)],
                marker=_MARKS[number % len(_MARKS)],
                markersize=4.5,
                linewidth=1.4,
                elinewidth=1,
                label=name,
            )
        if logarithmic:
            axes.set_xscale("log")
            if len(set(values)) <= _TICKS:
                axes.set_xticks(sorted(set(values)))
                axes.minorticks_off()
            axes.xaxis.set_major_formatter(_plain)
        if _most_at_zero(found):
            axes.set_yscale("symlog", linthresh=1)
            axes.set_yticks([-10, -1, 0, 1, 10])
            axes.yaxis.set_major_formatter(_plain)
        axes.set_xlabel(found.option.rpartition(".")[2].replace("_", " "))
        axes.set_ylabel(axis_label(f"{metric.title} minus {against}", metric, difference=True))
        grid_lines(axes, "y")
        figure.legend(loc="outside upper center", ncols=min(3, len(found.curves)), frameon=False)
        told = "; ".join(
            f"{name}: {', '.join(f'{value:g} {each.mean:+.2f}' for value, each in curve.items())}"
            for name, curve in found.curves.items()
        )
        return picture(figure, f"{metric.name}-swept", f"{metric.title} minus {against} by {found.option}", f"{told}.")


def _most_at_zero(found: Swept) -> bool:
    sizes = np.abs([each.mean for curve in found.curves.values() for each in curve.values()])
    return bool(sizes.max() > _FAR and np.median(sizes) < 1)


def _plain(value: float, _: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")
