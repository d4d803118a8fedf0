"""Online: the paper's scenario."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tta_bench.adaptation.scenarios.base import Scenario, register_scenario

if TYPE_CHECKING:
    from tta_bench.data.streams import Stream


@register_scenario("online")
class Online(Scenario):
    """A stream per target."""

    sentence = "The state starts anew from the source model on every target domain."

    def streams(self, passes: Sequence[Stream]) -> list[Stream]:
        """Each pass by itself."""
        return list(passes)
