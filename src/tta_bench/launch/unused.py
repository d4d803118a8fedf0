"""Keys that a command line sets and that none of its runs looks at: refused, as they would be silently ignored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from tta_bench.launch.keys import below
from tta_bench.methods.options import TUNED, method_options
from tta_bench.offline.options import system_options
from tta_bench.schema import RunConfig
from tta_bench.search.study import Study

Use = tuple[tuple[str, ...], Callable[[RunConfig, str], bool], str]

USES: Sequence[Use] = (
    (
        ("search",),
        lambda config, _: config.tune or config.method.get("preset") == TUNED,
        "is for a search: add tune=true, or take the options that one has found with method.preset=tuned",
    ),
    (("seed",), lambda config, _: not config.tune, "is of runs, and a search draws by search.seed: set that"),
    (
        ("metrics", "predict", "diagnostics", "protocol.evaluation"),
        lambda config, _: not config.tune,
        "is of runs, and tune=true looks at the Dice of shifted source images alone: leave it out",
    ),
    (
        ("training",),
        lambda config, _: config.checkpoint is None,
        "is for training a source model, and checkpoint= is one: leave one of them out",
    ),
    (
        ("training.momentum", "training.nesterov"),
        lambda config, _: config.training.optimizer == "sgd",
        "is of training.optimizer=sgd: add that",
    ),
    (
        ("training.epsilon", "training.bias_correction"),
        lambda config, _: config.training.optimizer == "avagrad",
        "is of training.optimizer=avagrad: add that",
    ),
    (
        ("training.branch_weights",),
        lambda config, key: key.removeprefix("training.branch_weights.") in (key, *config.model.branches),
        "weighs the loss of a branch that the source model has not: add it to model.branches",
    ),
    (
        ("model.norm_blocks",),
        lambda config, _: config.model.norm is not None,
        "is of model.norm=catenorm: add that",
    ),
    (
        ("method",),
        lambda config, key: not (config.tune and key.split(".")[-1] in Study(config).space),
        "is what tune=true searches, from its default on: leave it out",
    ),
    (
        ("method",),
        lambda config, key: config.tune or method_options(config.method).without_effect().isdisjoint(key.split(".")),
        "has no effect beside the other options of the method: leave it out, or change those",
    ),
    (
        ("adapt",),
        lambda config, key: (
            config.adapt is not None and system_options(config.adapt).without_effect().isdisjoint(key.split("."))
        ),
        "has no effect beside the other options of the system: leave it out, or change those",
    ),
)
"""Keys, with all below them; whether a run looks at one of them; and why other runs do not."""


def unused_keys(words: Iterable[tuple[str, str]], configs: Sequence[RunConfig]) -> list[str]:
    """A sentence for each word that no run looks at.

    Args:
        words: key and text of what is set for all the runs.
        configs: all runs, sound ones; of none nothing is said.
    """
    faults = []
    for key, text in words if configs else ():
        idle = (why for keys, looks, why in USES if below(key, keys) and not any(looks(each, key) for each in configs))
        faults += [f"{text} {why}" for why in islice(idle, 1)]
    return faults
