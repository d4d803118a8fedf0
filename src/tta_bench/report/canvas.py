"""What all figures of a report share: their look, and how they become SVG and PDF.

Text and axes are drawn in ``currentColor`` on a transparent background, so that a figure takes the colours of a light
or a dark page; :func:`standalone` gives it colours of its own. Marks use :data:`PALETTE`.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal
from xml.sax.saxutils import escape

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from tta_bench.metrics.base import Metric
from tta_bench.report.model import Picture

PALETTE: Final = ("#0a7abf", "#d55e00", "#00946c", "#c2569a", "#a67c00", "#3c93cc", "#8273e6", "#808080")
"""Colours in the order of Okabe and Ito, shifted to a contrast of at least 3 on white and on near-black alike."""

INK: Final = "#010203"
"""Stands for ``currentColor`` while Matplotlib draws: a colour that nothing else has."""

_GROUND: Final = (
    "<style>svg { color: #1c2126 } .ground { fill: #ffffff } @media (prefers-color-scheme: dark) "
    "{ svg { color: #e7eaed } .ground { fill: #14171a } }</style>"
    '<rect class="ground" width="100%" height="100%"/>'
)
"""Where there is no page to take the colours from: those of the report."""

_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tta_bench",  # the same numbers give the same file
    "pdf.fonttype": 42,  # journals take no others
    "text.parse_math": False,  # a name with dollar signs is a name
    "font.family": ["DejaVu Sans"],  # what the layout is measured with; pages may use a narrower one
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.prop_cycle": cycler(color=PALETTE),
    "hatch.linewidth": 0.5,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "hatch.color": INK,
}
WIDTH: Final = 7.5  # inches


def standalone(svg: str) -> str:
    """A figure as a file of its own, light or dark as its reader prefers.

    Inside ``<img>`` nothing of the page around it is known, so it brings its background along.
    """
    return svg.replace("</desc>", f"</desc>{_GROUND}", 1)


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, without a trace in Matplotlib's global settings."""
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user's matplotlibrc says
        mpl.rcParams.update(_STYLE)
        yield


def axis_label(quantity: str, metric: Metric, *, difference: bool = False) -> str:
    """The label of an axis; a difference of percentages is in points."""
    unit = f" in {'points' if difference and metric.unit == '%' else metric.unit}" if metric.unit else ""
    return f"{quantity}{unit}{', lower is better' if metric.direction == 'lower' else ''}"


def grid_lines(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Faint lines across an axis, below all marks."""
    axes.grid(axis=axis, color=INK, alpha=0.15, linewidth=0.6)
    axes.set_axisbelow(True)


def picture(figure: Figure, name: str, title: str, description: str) -> Picture:
    """The figure with a title and a description, all identifiers of its SVG beginning with ``name``."""
    with warnings.catch_warnings():  # of letters that no font here has, and of labels that leave the axes no room
        warnings.simplefilter("ignore", UserWarning)
        return Picture(_svg(figure, name, title, description), _pdf(figure, title))


def _svg(figure: Figure, name: str, title: str, description: str) -> str:
    file = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    text = file.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :].replace(INK, "currentColor")
    # Its style sheet speaks of all elements, which inside a page are those of the page.
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    width, height = (round(72 * side, 3) for side in figure.get_size_inches())
    size = f"width: 100%; min-width: {width}px; max-width: {1.6 * width:.0f}px; stroke-linejoin: round"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" class="figure" role="img" '
        f'viewBox="0 0 {width} {height}" style="{size}" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>{body}'
    )


def _pdf(figure: Figure, title: str) -> bytes:
    file = io.BytesIO()
    metadata = {"Title": title, **dict.fromkeys(("Creator", "Producer", "CreationDate"))}
    figure.savefig(file, format="pdf", transparent=True, metadata=metadata)
    return file.getvalue()
