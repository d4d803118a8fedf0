"""The section ``method`` of a configuration as the typed options of a registered method."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from functools import cache
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaValidator

from tta_bench.errors import UserError, nearest
from tta_bench.methods.base import METHODS, MethodOptions
from tta_bench.runtime.composed import composed_file
from tta_bench.runtime.ranges import strict_numbers
from tta_bench.schema import fault_sentence

PRESETS = ("uniform", "official")
"""Hyper-parameters that are equal for all methods where they can be, or those of a method's own authors."""

TUNED = "tuned"
"""Of a method whose options a search has found: its values stand beside it, see :mod:`tta_bench.search`."""


def _by_preset(uniform: Any, official: Any, *, _parent_: DictConfig) -> Any:
    """``${preset:UNIFORM,OFFICIAL}`` in a method's YAML: one of two values, chosen by its key ``preset``."""
    value = official if _parent_.get("preset") == "official" else uniform
    return OmegaConf.create(value) if isinstance(value, list) else value


OmegaConf.register_new_resolver("preset", _by_preset, replace=True)


def default_options(name: str, **changes: Any) -> MethodOptions:
    """The hyper-parameters of a method as its YAML has them, without a command line.

    Args:
        name: of a registered method. One whose package brings no YAML for it has the defaults of its options class.
        changes: option -> value in place of the YAML's; of a mapping some of its keys; also ``preset``.

    Raises:
        UserError: unknown method or option, wrong types or values out of range.
    """
    values = dict(_defaults(name, str(changes["preset"]) if "preset" in changes else None))
    for key, change in changes.items():
        is_part = isinstance(change, Mapping) and isinstance(values.get(key), Mapping)
        values[key] = values[key] | change if is_part else change
    return method_options(values | {"name": name})


@cache
def _defaults(name: str, preset: str | None) -> dict[str, Any]:
    """What the YAML of a method says, by its own preset if none is given."""
    composed = OmegaConf.merge(_of_method(name), {} if preset is None else {"preset": preset})
    values: Any = OmegaConf.to_container(composed, resolve=True)
    return dict(values)


def method_options(method: Mapping[str, Any]) -> MethodOptions:
    """The hyper-parameters of ``method`` (its YAML's content), typed and checked.

    Raises:
        UserError: no or an unknown name, unknown or missing keys, wrong types or values out of range.
    """
    if not isinstance(method, Mapping) or method.get("name") is None:
        raise UserError(f"no method is chosen: add +method=NAME, {METHODS.nearest('')}")
    options: Any = METHODS.get(str(method["name"])).Options
    given, presets = method.get("preset", PRESETS[0]), (*PRESETS, TUNED)
    preset = "null" if given is None else str(given)
    if preset not in presets:
        raise UserError(f"unknown method.preset={preset}: {nearest(preset, presets)}")
    values = {key: value for key, value in method.items() if key not in ("name", "preset")}
    checked: MethodOptions = typed_options(options, values, "method")
    return checked


def identified_method(method: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a method: its section, with its options as typed values: 0 and 0.0 are the same.

    One without effect is at its default, and one that came later and changes nothing is left out.
    """
    options = method_options(method)
    values = {**method, **asdict(options), **usual_values(str(method["name"]), options.without_effect())}
    return {key: value for key, value in values.items() if key not in options.without_identity()}


def usual_values(name: str, keys: Collection[str]) -> dict[str, Any]:
    """The defaults of these options, as plain values; empty for a method without a file whose class has none."""
    with suppress(UserError):
        usual = asdict(default_options(name)) if keys else {}
        return {key: usual[key] for key in keys}
    return {}


def typed_options(options: Any, values: Mapping[str, Any], key: str) -> Any:
    """Values as an options class, checked.

    Args:
        options: the class.
        values: one for each of its fields.
        key: of the section that they stand in.

    Raises:
        UserError: unknown or missing keys, wrong types or values out of range.
    """
    try:
        return _validator(options).validate_python(values)
    except ValidationError as error:
        raise UserError(
            [fault_sentence(fault, lambda path: _names(options, path), key) for fault in error.errors()]
        ) from None


def has_presets(name: str) -> bool:
    """Whether the YAML of a method has the key ``preset``, which then is among its options."""
    return "preset" in _of_method(name)


def _of_method(name: str) -> DictConfig:
    return composed_file("method", name, METHODS.get(name).__module__)


@cache
def _validator(options: Any) -> SchemaValidator:
    """Building one takes milliseconds, and a report asks for the options of every cell several times.

    Options of a plug-in may declare no range: their numbers are finite all the same.
    """
    return SchemaValidator(strict_numbers(TypeAdapter(options).core_schema))


def _names(options: Any, path: list[str]) -> list[str]:
    """The options that are valid below ``path``."""
    for part in path:
        options = get_type_hints(options)[part]
    return [field.name for field in fields(options)]
