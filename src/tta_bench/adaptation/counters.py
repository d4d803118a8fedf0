"""What a method has counted, which goes with its records."""

from __future__ import annotations

from typing import NamedTuple, Self

from tta_bench.methods.base import Method


class Counters(NamedTuple):
    """The counters of a method and its network.

    Attributes:
        forwards: of the network, images per stream.
        backwards: of the method.
        skipped: updates that were none.
    """

    forwards: int
    backwards: int
    skipped: int

    @classmethod
    def of(cls, method: Method) -> Self:
        """Those of a method as they are now."""
        return cls(method.network.forwards, method.backwards, method.skipped)

    def give(self, method: Method) -> None:
        """Let a method count on from here."""
        method.network.forwards, method.backwards, method.skipped = self
