"""The overrides of a command line: what Hydra's parser makes of them, and the values that a sweep lists."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, RangeSweep
from hydra.errors import HydraException

from tta_bench.errors import UserError

MOST_JOBS = 10_000
"""Jobs of one sweep: more would be checked for minutes, and run for weeks."""


def parse_overrides(overrides: Sequence[str], loader: ConfigLoader) -> tuple[list[Override], list[str]]:
    """Overrides in Hydra's grammar, and a fault for each argument that is not one."""
    parsed, faults = [], []
    parser = OverridesParser.create(config_loader=loader)
    for text in overrides:
        try:
            (override,) = parser.parse_overrides([text])
        except (HydraException, ValueError, RecursionError):  # Python's too: thousands of digits, or of brackets
            override = None
        if override is None or not override.key_or_group or override.package is not None:
            faults.append(
                f"cannot read '{text}': write KEY=VALUE, and a value with special characters as 'KEY=\"VALUE\"'"
            )
        elif override.key_or_group == "row":
            faults.append(
                f"'{text}': rows are those of an experiment; choose one with experiment=NAME, or +method=NAME"
            )
        elif override.type == OverrideType.DEL:
            key = override.key_or_group
            if loader.get_group_options(key):  # null is no choice of most groups
                faults.append(f"'{text}' cannot remove a group: choose from it instead, {key}=NAME")
            else:
                faults.append(f"'{text}' cannot remove a key: set it to null instead, {key}=null")
        else:
            parsed.append(override)
    return parsed, faults


def sweep_faults(overrides: Sequence[Override], multirun: bool | None) -> list[str]:
    """Lists of values that are no sweep, or hold a value twice; ``multirun`` None: there are no sweeps at all."""
    faults = []
    for override in overrides:
        if not override.is_sweep_override():
            continue
        text, key = override.input_line, override.key_or_group
        try:
            values = sweep_values(override)
        except HydraException:
            faults.append(f"cannot sweep over '{text}': list the values, separated by commas")
            continue
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            faults.append(f"{key} lists {twice[0]} more than once: name it once")
        quote = f"quote a value that has a comma, '{key}=\"VALUE\"'"
        if key == "experiment":
            faults.append(f"'{text}': one experiment at a time")
        elif multirun is None:
            faults.append(f"'{text}' has several values where one is expected; {quote}")
        elif not multirun:
            faults.append(f"'{text}' has several values: add -m to run each of them, or {quote}")
    return faults


def sweep_values(override: Override) -> list[str]:
    """The values of an override as text: several in a sweep.

    Raises:
        HydraException: a sweep over infinitely many values, or none.
        UserError: a sweep over more values than may be run.
    """
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    sweep = override.value()
    if isinstance(sweep, RangeSweep) and sweep.shuffle:  # would be written out whole; the order does not matter here
        override = replace(override, _value=replace(sweep, shuffle=False))
    try:
        values = list(islice(override.sweep_string_iterator(), MOST_JOBS + 1))
    except (ArithmeticError, ValueError) as error:  # a step of 0, an end that is no number
        raise HydraException(str(error)) from error
    if not values:
        raise HydraException("no value")
    if len(values) > MOST_JOBS:
        raise UserError(f"'{override.input_line}' has more than {MOST_JOBS:,} values: run fewer at a time")
    return values


def check_number_of_jobs(values: Iterable[Sequence[str]]) -> None:
    """Refuse a sweep of too many combinations before the first of them is composed.

    Raises:
        UserError: more than :data:`MOST_JOBS`.
    """
    jobs = math.prod(len(each) for each in values)
    if jobs > MOST_JOBS:
        raise UserError(f"this sweep has {jobs:,} runs, more than {MOST_JOBS:,}: run fewer at a time")


def override_text(override: Override, value: str) -> str:
    """An override with one of its values."""
    return f"{override.get_key_element()}={value}"


def is_finite(override: Override) -> bool:
    """Whether the values can be listed; a sweep that cannot is among the faults already."""
    with suppress(HydraException):
        return bool(sweep_values(override))
    return False
