"""Values of a configuration: under one name each, and as one types them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any


def flat(section: Mapping[str, Any], joint: str = ".", prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one; a mapping without values has none here either.

    >>> flat({"data": {"name": "folder", "classes": {}}, "seed": 0})
    {'data.name': 'folder', 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        found |= flat(value, joint, f"{name}{joint}") if isinstance(value, Mapping) else {name: value}
    return found


def typed(value: Any) -> str:
    """A value as one types it on a command line; of numbers that differ, the texts do.

    >>> [typed(value) for value in (0.001, 1.25e-05, 0.25, 10, ["A", "C"], None, True)]
    ['1e-3', '1.25e-5', '0.25', '10', '[A,C]', 'null', 'true']
    """
    if isinstance(value, list | tuple):
        return f"[{','.join(map(typed, value))}]"
    if isinstance(value, float):
        return f"{Decimal(repr(value)).normalize():e}" if 0 < abs(value) < 0.01 else repr(value)
    return json.dumps(value) if value is None or isinstance(value, bool | int) else str(value)
