"""The types of numbers in configurations: each has a range, and neither text, a boolean nor NaN is one.

A range is declared where the field is, ``rate: Annotated[float, Range(0, 1)]``, and holds wherever a value comes
from: pydantic reads it where a configuration is validated, :func:`check_ranges` where a dataclass is built by hand.
The upper ends are far above what any study uses. They are there because what lies beyond ends in a traceback, in an
endless loop or in NaN, never in a result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

from tta_bench.errors import UserError

_YAML_TEXT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
"""What YAML 1.1 takes for text although it is a number: ``1e-4``, without a point."""


@dataclass(frozen=True)
class Range:
    """The values that a number may have; NaN is in no range.

    Attributes:
        low: the lower end.
        high: the upper end; infinity for a limit that may be absent, and only there.
        ends: ``[`` and ``]`` where the ends are included, ``(`` and ``)`` where they are not.
    """

    low: float
    high: float
    ends: str = "[]"

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.ends[0] == "[" else value > self.low
        return above and (value <= self.high if self.ends[1] == "]" else value < self.high)

    def __str__(self) -> str:
        return f"{self.ends[0]}{self.low:.12g}, {self.high:.12g}{self.ends[1]}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """The schema of an ``int`` or ``float`` within this range."""
        from pydantic_core.core_schema import no_info_before_validator_function

        schema = handler(source)
        schema["ge" if self.ends[0] == "[" else "gt"] = self.low
        if self.high != math.inf:
            schema["le" if self.ends[1] == "]" else "lt"] = self.high
        if schema["type"] == "int":
            return strict_numbers(schema)
        schema["allow_inf_nan"] = self.high == math.inf
        return no_info_before_validator_function(_number_in_text, strict_numbers(schema))


LARGE = 1e9
"""The end of ranges that have none by nature: a weight, rate or temperature there is lost in single precision."""

Fraction = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 1, "[)")]
"""The weight of the past in a moving average, which must not be all."""
NonNegative = Annotated[float, Range(0, LARGE)]
Positive = Annotated[float, Range(0, LARGE, "(]")]
Seed = Annotated[int, Range(0, 2**63 - 1)]
"""PyTorch's generators take 64 bits, the hashes that our draws come from have 63."""


def strict_numbers(schema: Any) -> Any:
    """A pydantic-core schema in which every number is one, finite, and an integer has at most 64 bits.

    This is what holds for options of a plug-in that declare no range. A range that is declared stays as it is.
    """
    if isinstance(schema, list | tuple):
        return type(schema)(strict_numbers(each) for each in schema)
    if not isinstance(schema, dict):
        return schema
    changed = {key: strict_numbers(value) for key, value in schema.items()}
    if schema.get("type") == "int":
        lower = {} if "ge" in schema or "gt" in schema else {"ge": -(2**63)}
        upper = {} if "le" in schema or "lt" in schema else {"le": 2**63 - 1}
        return changed | {"strict": True} | lower | upper
    if schema.get("type") == "float":
        return {"allow_inf_nan": False} | changed | {"strict": True}
    return changed


def check_ranges(options: Any) -> None:
    """Check the numbers of a dataclass against the ranges of its fields.

    Raises:
        ValueError: with the first that lies outside.
    """
    kind: Any = type(options)
    hints = _hints(kind)
    for field in fields(options):
        value = getattr(options, field.name)
        for allowed, number in _numbers(hints[field.name], value):
            if number not in allowed:
                shown = list(value) if isinstance(value, tuple) else value
                raise ValueError(f"{field.name}={shown} must lie in {allowed}")


def _numbers(hint: Any, value: Any) -> Iterator[tuple[Range, float]]:
    """Every number of a value with the range that its type declares."""
    if isinstance(value, tuple):
        for part in get_args(hint):
            for each in value:
                yield from _numbers(part, each)
    elif isinstance(value, int | float):
        parts = [hint]
        for part in parts:  # the type itself, or what is beside None or a word
            parts += get_args(part)
            yield from ((each, value) for each in getattr(part, "__metadata__", ()) if isinstance(each, Range))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _number_in_text(value: Any) -> Any:
    return float(value) if isinstance(value, str) and _YAML_TEXT.fullmatch(value) else value


def check_device(name: str) -> str:
    """Refuse the name of a device that no machine has; whether this one has it, ``resolve_device`` finds out.

    Raises:
        UserError: with the names there are.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]{0,3}))?", name):
        raise UserError(f"unknown device={name}: choose auto, cpu, cuda or cuda:N, the GPU number N from 0")
    return name
