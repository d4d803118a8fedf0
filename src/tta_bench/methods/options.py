"""The section ``method`` of a configuration as the typed options of a registered method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

from tta_bench.errors import UserError, nearest
from tta_bench.methods.base import METHODS, MethodOptions
from tta_bench.runtime.ranges import strict_numbers

if TYPE_CHECKING:
    from pydantic_core import SchemaValidator

PRESETS = ("uniform", "official")
"""Hyper-parameters that are equal for all methods where they can be, or those of a method's own authors."""


def method_options(method: Mapping[str, Any]) -> MethodOptions:
    """The hyper-parameters of ``method`` (its YAML's content), typed and checked.

    Raises:
        UserError: no or an unknown name, unknown keys, wrong types or values out of range.
    """
    # Whoever builds options by hand needs no pydantic, and benchmarks run the methods where there is none.
    from pydantic import ValidationError

    from tta_bench.schema import fault_sentence

    if not isinstance(method, Mapping) or "name" not in method:
        raise UserError(f"no method is chosen: add +method=NAME, {METHODS.nearest('')}")
    options: Any = METHODS.get(str(method["name"])).Options
    if method.get("preset", PRESETS[0]) not in PRESETS:
        raise UserError(f"unknown method.preset={method['preset']}: {nearest(str(method['preset']), PRESETS)}")
    values = {key: value for key, value in method.items() if key not in ("name", "preset")}
    try:
        return _validator(options).validate_python(values)
    except ValidationError as error:
        raise UserError(
            [fault_sentence(fault, lambda path: _names(options, path), "method") for fault in error.errors()]
        ) from None


@cache
def _validator(options: Any) -> SchemaValidator:
    """Building one takes milliseconds, and a report asks for the options of every cell several times.

    Options of a plug-in may declare no range: their numbers are finite all the same.
    """
    from pydantic import TypeAdapter
    from pydantic_core import SchemaValidator

    return SchemaValidator(strict_numbers(TypeAdapter(options).core_schema))


def _names(options: Any, path: list[str]) -> list[str]:
    """The options that are valid below ``path``."""
    for part in path:
        options = get_type_hints(options)[part]
    return [field.name for field in fields(options)]
