"""Classes and mask values: which classes a pixel of a value belongs to, and which value tells some classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tta_bench.errors import UserError


def told_values(classes: Mapping[str, Sequence[int]]) -> dict[int, tuple[bool, ...]]:
    """The mask values that tell different things, 0 among them -> which classes a pixel of this value belongs to.

    Of several values that tell the same, the smallest.

    >>> told_values({"disc": (1, 2), "cup": (2,)})
    {0: (False, False), 1: (True, False), 2: (True, True)}
    """
    told: dict[tuple[bool, ...], int] = {}
    for value in sorted({0}.union(*classes.values())):
        told.setdefault(tuple(value in values for values in classes.values()), value)
    return {value: members for members, value in told.items()}


def values_of(members: np.ndarray, classes: Mapping[str, Sequence[int]], origin: str) -> np.ndarray:
    """One mask of several, a pixel of which may belong to any number of classes.

    Args:
        members: bool ``[classes, …]``.
        classes: name -> mask values.
        origin: where the masks come from, for the message.

    Returns:
        uint8 ``[…]``, mask values.

    Raises:
        UserError: pixels that belong to classes which no value tells together.
    """
    mask = np.zeros(members.shape[1:], np.uint8)
    left = np.ones(mask.shape, bool)
    for value, told in told_values(classes).items():
        same = (members == np.reshape(told, (-1, *[1] * mask.ndim))).all(0)
        mask[same] = value
        left &= ~same
    if left.any():
        pixel = members[:, left][:, 0]
        inside = " and ".join(name for name, member in zip(classes, pixel, strict=True) if member)
        shown = "; ".join(f"{name}: {list(values)}" for name, values in classes.items())
        free = next(value for value in range(1, 256) if all(value not in values for values in classes.values()))
        raise UserError(
            f"{origin}: {int(left.sum())} pixels belong to {inside} and to no other class, which no value of "
            f"data.classes ({shown}) tells: add a value of its own to data.classes.{inside.split(' and ')[0]}"
            f"{' and the others' if ' and ' in inside else ''}, {free} for instance, or mend the masks"
        )
    return mask


def value_of(name: str, classes: Mapping[str, Sequence[int]]) -> int | None:
    """The value of a class name, or of a number in its place: of its values the one that fewest classes share."""
    if name.isdecimal():
        return int(name)
    if name not in classes:
        return None
    return min(classes[name], key=lambda value: (sum(value in values for values in classes.values()), value))
