"""Every option of every method has an effect on the numbers, or says that it has none beside the others."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from typing import get_args, get_type_hints

import pytest
import torch
from runs import NAMES, every_method, make, one, run
from settings import options_of

from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS, Protocol
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.pretext import PRETEXT_TASKS

NOT_SEEN_HERE = {
    "dltta.memory": "a longer memory than these streams",
    "dltta.largest_rate": "no discrepancy reaches it",
    "diga.prototype_rate": "no pixel of an untrained network is sure enough to move a prototype",
    "diga.temperature": "likewise",
    "memo.momentum": "of one step per image, whose optimiser is fresh",
}
"""Options that change nothing on a short stream and an untrained network, and why."""

TWO_OBJECTIVES = [name for name in NAMES if "auxiliary" in vars(options_of(name))]


def others(options, name):
    """Other values of an option: numbers smaller and larger, switches, words, and parts of a mapping."""
    value = getattr(options, name)
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value * 2, value / 2, value + 1, 1 - value]
    if isinstance(value, str):
        return [word for word in get_args(get_type_hints(type(options))[name]) if word != value]
    nested = asdict(options)[name]
    return [{"noise": {"p": 1.0, "range": [0.3, 0.3]}}] if isinstance(nested, Mapping) and "noise" in nested else []


def differs(before, after):
    seen = before.diagnostics != after.diagnostics
    return seen or any(not torch.equal(after.logits[place], logits) for place, logits in before.logits.items())


def outcomes(name, network, streams, before, option):
    """For each other value that is one: whether it changes a number."""
    for value in others(options_of(name), option):
        with suppress(UserError, ValueError):  # no value of this option, or not beside the others
            yield differs(before, run(make(name, network, **{option: value}), one(streams)))


@every_method
def test_every_option_changes_a_number_or_is_declared_without_effect(networks, streams, usual, name):
    before, declared = usual(name, "B"), options_of(name).without_effect()
    for option in (field.name for field in fields(options_of(name))):
        changes = outcomes(name, networks(name), streams, before, option)
        first = next(changes, None)
        if first is not None and f"{name}.{option}" not in NOT_SEEN_HERE:
            assert (first or any(changes)) == (option not in declared), option


@pytest.mark.parametrize("name", TWO_OBJECTIVES)
@pytest.mark.parametrize(
    ("objective", "option", "value"),
    [
        ("denoising", "noise_std", 0.5),
        ("super_resolution", "super_resolution_factor", 4),
        ("consistency", "strong_augmentation", {"noise": {"p": 1.0, "range": [0.3, 0.3]}}),
        ("entropy", "entropy_form", "binary"),
    ],
)
def test_an_option_of_an_objective_has_an_effect_where_the_objective_is_used(
    small_net, streams, name, objective, option, value
):
    network = AdaptableNetwork(small_net, tuple(PRETEXT_TASKS.names()))
    for pair in ((objective, "rotation"), ("rotation", objective), ("rotation", "reconstruction")):
        chosen = dict(zip(("pseudo", "auxiliary"), pair, strict=True))
        both = [default_options(name, **chosen, learning_rate=1e-2, **more) for more in ({}, {option: value})]
        first, second = (run(METHODS.get(name)(network, each, Protocol()), one(streams, "D")) for each in both)
        is_used = objective in pair
        assert differs(first, second) == is_used
        assert (option in both[1].without_effect()) == (not is_used)
