"""From logits to the masks of classes: what is scored, and what is written of a user's own image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tta_bench.ops.probabilities import Activation, masks

Nested = tuple[int, int]
"""Numbers of two classes: the one within, and the one around it."""


@dataclass(frozen=True)
class Finish:
    """What makes masks of logits.

    Attributes:
        activation: what the logits stand for.
        threshold: probability from which a pixel belongs to a class, under a sigmoid.
        nested: classes that lie within others, which are cut off at their border, see :func:`nested_classes`.
    """

    activation: Activation
    threshold: float
    nested: tuple[Nested, ...] = ()

    def __call__(self, logits: Tensor) -> Tensor:
        """Bool ``[classes, H, W]`` of logits ``[channels, H, W]``."""
        found = masks(logits, self.activation, self.threshold)
        for inner, outer in self.nested:
            found[inner] &= found[outer]
        return found


def nested_classes(classes: Mapping[str, Sequence[int]]) -> tuple[Nested, ...]:
    """The classes whose mask values are some of those of another, each pair once, outer ones first.

    >>> nested_classes({"disc": [1, 2], "cup": [2]})
    ((1, 0),)
    """
    values = [set(each) for each in classes.values()]
    pairs = [(i, o) for i, inner in enumerate(values) for o, outer in enumerate(values) if inner < outer]
    return tuple(sorted(pairs, key=lambda pair: -len(values[pair[0]])))
