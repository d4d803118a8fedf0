"""Continual: the state is never reset."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from tta_bench.adaptation.scenarios.base import Scenario, register_scenario

if TYPE_CHECKING:
    from tta_bench.data.streams import Stream


@register_scenario("continual")
class Continual(Scenario):
    """One stream through all targets."""

    sentence = "One state lives through all target domains, in their order."

    def streams(self, passes: Sequence[Stream]) -> list[Stream]:
        """All passes, one after another."""
        return [tuple(chain.from_iterable(passes))]
