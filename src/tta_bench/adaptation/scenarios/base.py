"""What a scenario is, and how ``protocol.reset`` chooses one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from tta_bench.registry import Registry

if TYPE_CHECKING:
    from tta_bench.data.streams import Stream


class Scenario(ABC):
    """Which images form a stream. The state starts afresh with every stream.

    Attributes:
        sentence: what the state lives through, for reports.
        episodic: whether the state also starts afresh at every image of a stream, or every batch of them.
        batch: images of a stream at a time, at least 1; more are for methods whose card says ``takes_batches``.
    """

    sentence: ClassVar[str]
    episodic: ClassVar[bool] = False
    batch: ClassVar[int] = 1

    @abstractmethod
    def streams(self, passes: Sequence[Stream]) -> list[Stream]:
        """The streams, each image in one of them.

        Args:
            passes: over the images of each target, in the order of the targets.
        """


SCENARIOS: Registry[type[Scenario]] = Registry("scenario", "tta_bench.adaptation.scenarios")
register_scenario = SCENARIOS.register
"""Class decorator: make a :class:`Scenario` available by name, ``@register_scenario("episodic")``.

Raises:
    ValueError: the name is taken.
"""

RESETS = {"target": "online", "image": "episodic", "never": "continual"}
"""Words of ``protocol.reset`` -> the scenario they stand for."""


def reset_names() -> list[str]:
    """The values of ``protocol.reset``: the words, and the scenarios that have none; each scenario has one name."""
    return [*RESETS, *sorted(set(SCENARIOS.names()) - set(RESETS.values()))]


def scenario_of(reset: str) -> Scenario:
    """The scenario of one of :func:`reset_names`.

    Raises:
        UserError: there is none.
    """
    return SCENARIOS.get(RESETS.get(reset, reset))()
