"""Check a composed data section; what does not need torch, which takes seconds to import."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from tta_bench.data.readers.base import READERS, section_faults
from tta_bench.errors import UserError, nearest
from tta_bench.runtime.sections import keys_of
from tta_bench.schema import DataConfig, fault_sentence


def validate_data(section: Mapping[str, Any]) -> DataConfig:
    """The data section alone, for commands that run no method.

    Raises:
        UserError: with every fault found.
    """
    faults: list[str] = []
    try:
        config = DataConfig.model_validate(section)
    except ValidationError as error:
        faults += [fault_sentence(fault, keys_of(DataConfig), "data") for fault in error.errors()]
    faults += [*unknown_names({"data": section}, {"data.name": READERS.names}), *reader_faults(section)]
    if faults:
        raise UserError(faults)
    return config


def reader_faults(section: Any) -> list[str]:
    """What the reader of a data section misses in it; nothing where that is no section or names no reader."""
    with suppress(ValidationError):
        config = DataConfig.model_validate(section)
        if config.name in READERS.names():
            return section_faults(config)
    return []


def unknown_names(composed: Mapping[str, Any], names: Mapping[str, Callable[[], Collection[str]]]) -> Iterator[str]:
    """A sentence for every name that nothing is registered by.

    Args:
        composed: nested sections.
        names: keys whose value is looked up by name -> the names that there are.
    """
    for key, known in names.items():
        value = value_at(composed, key)
        for name in map(name_text, value if isinstance(value, list | tuple) else [value]):
            if name is not None and name not in known():
                yield f"unknown {key}={name}: {nearest(name, known())}"


def value_at(composed: Mapping[str, Any], key: str) -> Any:
    """What stands under a dotted key; None where there is nothing."""
    value: Any = composed
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def name_text(value: Any) -> str | None:
    """A name as the schema reads it; None where the schema refuses the value itself."""
    with suppress(ValueError):  # a number of thousands of digits
        return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    return None
