"""Grey masks of the optic disc: which shade is which class, and what to say about any other shade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tta_bench.data.images import value_counts
from tta_bench.errors import UserError

NUMBERS = {"background": 0, "rim": 1, "cup": 2}
"""The mask values that grey codes are decoded to; ``data.classes`` is about these."""

MANY = 10
"""More values than this are no code: they come from smoothing or lossy compression."""


def class_numbers(grey: np.ndarray, shades: Mapping[str, Sequence[int]], path: Path) -> np.ndarray:
    """Mask values of a grey mask.

    Args:
        grey: uint8 ``[height, width]``, as displayed.
        shades: the grey codes of ``background``, ``rim`` and ``cup``.
        path: of the mask, for the message.

    Returns:
        uint8 ``[height, width]`` of :data:`NUMBERS`.

    Raises:
        UserError: shades without a meaning, or no background at all: the mask is coded in another way.
    """
    meaning = {code: NUMBERS[name] for name, codes in shades.items() for code in codes}
    counts = value_counts(grey)
    declared = ", ".join(f"{name}: {list(codes)}" for name, codes in shades.items())
    if odd := [code for code in counts if code not in meaning]:
        remedy = (
            "so many come from smoothing or lossy compression, so export the masks anew as PNG, resized to the nearest "
            "value"
            if len(odd) > MANY
            else "mend the masks, or declare all codes with data.shades={…}, or use data=folder for class numbers"
        )
        raise UserError(
            f"{path} has grey codes without a meaning: {shares(counts, odd)} (data.shades={{{declared}}}): {remedy}"
        )
    if not any(code in counts for code in shades["background"]):
        raise UserError(
            f"{path} has no background, its codes are {shares(counts)} (data.shades={{{declared}}}): mend the mask, "
            "declare its codes with data.shades={…}, or use data=folder for class numbers"
        )
    table = np.zeros(256, np.uint8)
    table[list(meaning)] = list(meaning.values())
    return table[grey]


def shares(counts: Mapping[int, int], values: Sequence[int] | None = None) -> str:
    """Mask values with their share of all pixels, for a message.

    Args:
        counts: pixels of each value.
        values: which of them to list, of those at most :data:`MANY`; default: all.

    >>> shares({0: 9990, 7: 10})
    '0 (99.90 %), 7 (0.10 %)'
    """
    total = sum(counts.values())
    listed = list(counts) if values is None else list(values)
    text = ", ".join(f"{value} ({_percent(counts[value] / total)})" for value in listed[:MANY])
    return text + (f", ... ({len(listed)} values)" if len(listed) > MANY else "")


def _percent(share: float) -> str:
    return "< 0.01 %" if share < 0.0001 else f"{100 * share:.2f} %"
