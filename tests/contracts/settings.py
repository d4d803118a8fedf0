"""How the contract tests build each method: one entry per method, defaults for methods that have none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from tta_bench.methods.base import METHODS


@dataclass(frozen=True)
class Setting:
    """What the contracts need to know about a method.

    Attributes:
        options: overrides of the method's default options.
        no_update: further overrides that switch every update off, None if the method has no such switch.
        control: the method that predicts the same when updates are off.
        stochastic: whether another seed gives other predictions; None if not declared here.
        branches: auxiliary branches whose normalisation layers are adapted.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    no_update: Mapping[str, Any] | None = None
    control: str = "bn_only"
    stochastic: bool | None = None
    branches: tuple[str, ...] = ()


# A rate above the default makes updates visible far above rounding.
SETTINGS: dict[str, Setting] = {
    "no_adapt": Setting(no_update={}, control="no_adapt", stochastic=False),
    "bn_only": Setting(no_update={}, stochastic=False),
    "tent": Setting({"learning_rate": 1e-3}, no_update={"learning_rate": 0.0}, stochastic=False),
    "grata": Setting({"learning_rate": 1e-3}, no_update={"learning_rate": 0.0}, stochastic=True),
}


def setting_of(name: str) -> Setting:
    """The entry of the table, or what the options of a method that is not in it suggest."""
    if name in SETTINGS:
        return SETTINGS[name]
    has_rate = "learning_rate" in {f.name for f in fields(METHODS.get(name).Options)}
    return Setting(no_update={"learning_rate": 0.0} if has_rate else None)
