"""Numbers as text, the same in every format."""

from __future__ import annotations

import math

from tta_bench.report.model import Comparison, SourceResult

DASH = "\N{EN DASH}"
"""In the place of a number that is not there."""


INCOMPLETE = "*"
"""Behind a mean over fewer seeds than planned."""


def number(value: float | None, digits: int = 2, form: str = "") -> str:
    """A number, or a dash where there is none; ``form`` is ``+`` for differences, ``,`` to group thousands."""
    return DASH if value is None or not math.isfinite(value) else f"{value:{form}.{digits}f}"


def p_value(p: float) -> str:
    """Three digits behind the point, or that it is smaller; a dash for none."""
    return "<0.001" if p < 0.001 else number(p, 3)


def mean(result: SourceResult) -> str:
    """Mean, standard deviation over several seeds, and a mark if seeds are missing."""
    text = number(result.value)
    if result.value is None:
        return text
    return text + ("" if result.std is None else f" ± {result.std:.2f}") + (INCOMPLETE if result.missing else "")


def difference(comparison: Comparison | None) -> str:
    """Mean and 95 % interval."""
    if comparison is None:
        return DASH
    interval = f" [{comparison.low:+.2f}, {comparison.high:+.2f}]" if math.isfinite(comparison.low) else ""
    return f"{comparison.mean:+.2f}{interval}"
