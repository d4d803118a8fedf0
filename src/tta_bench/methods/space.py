"""Where a search looks for the options of a method: declared in the type of each option, beside its range.

``rate: Annotated[NonNegative, Tuned(1e-5, 1e-1, log=True)]`` is searched between these ends, and an
``Annotated[Literal["adam", "sgd"], Tuned()]`` over all its values. An option without it keeps its value. A class of
options inherits what its base declares, and redeclares a field to change it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Tuned:
    """A part of an option's type: a search may change its value.

    Attributes:
        low: the lower end of a number; None for an option with a list of values.
        high: the upper end, likewise.
        log: whether the logarithm is drawn uniformly, not the number.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Dimension:
    """The values of one option that are searched.

    Attributes:
        choices: all of them, of an option with a list of values; else empty.
        low: the lower end of a number.
        high: its upper end, included.
        log: whether the logarithm is drawn uniformly.
        whole: whether only whole numbers are meant.
    """

    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def __contains__(self, value: Any) -> bool:
        return value in self.choices if self.choices else self.low <= value <= self.high

    def record(self) -> Any:
        """In plain values: a list of choices, or the ends of an interval."""
        return [*self.choices] if self.choices else {"low": self.low, "high": self.high, "log": self.log}


def space_of(options: type) -> dict[str, Dimension]:
    """Option -> where it is searched, in the order of the fields; empty for a method without any."""
    hints = get_type_hints(options, include_extras=True)
    found = {}
    for field in fields(options):
        hint = hints[field.name]
        tuned = next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Tuned)), None)
        if tuned is not None:
            found[field.name] = _dimension(get_args(hint)[0], tuned)
    return found


def _dimension(kind: Any, tuned: Tuned) -> Dimension:
    if get_origin(kind) is Literal:
        return Dimension(choices=get_args(kind))
    assert tuned.low is not None
    assert tuned.high is not None
    return Dimension((), tuned.low, tuned.high, tuned.log, kind is int)
