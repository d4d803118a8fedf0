"""``method.preset=tuned``: the options that a search has found, in place of the defaults."""

from __future__ import annotations

from typing import Any

from tta_bench.errors import UserError
from tta_bench.methods.options import PRESETS, TUNED, has_presets, method_options
from tta_bench.schema import RunConfig
from tta_bench.search.study import Study


def with_tuned(config: RunConfig) -> RunConfig:
    """The configuration with the values that ``method.preset=tuned`` stands for; any other as it is.

    The default preset of a method whose file has none is no choice, and left out.

    Raises:
        UserError: there is no such search, it is not finished, or it is of other code or another source model.
    """
    method = dict(config.method)
    name, preset = method["name"], method.get("preset")
    if preset == PRESETS[0] and not has_presets(name):
        del method["preset"]
        return config.model_copy(update={"method": method})
    if preset != TUNED:
        return config
    study = study_of(config)
    outcome = study.outcome()
    change = None if outcome is None else study.change_since(outcome)
    if outcome is None or change is not None:
        found = "no finished search" if change is None else f"{change}, so there is no search any more"
        raise UserError(
            f"method.preset=tuned: {found} for method={name} on source={config.source} with these settings "
            f"({study.path}): run one with experiment=search, or +method={name} tune=true, and the same data, model, "
            "branches, training, protocol and search settings"
        )
    values: dict[str, Any] = {"name": name, "preset": TUNED, **study.defaults, **outcome["options"]}
    method_options(values)
    return config.model_copy(update={"method": values})


def study_of(config: RunConfig) -> Study:
    """The search that ``method.preset=tuned`` asks for: the one that begins with the other options as they are."""
    return Study(config.model_copy(update={"method": {**config.method, "preset": PRESETS[0]}}))
