"""``method.preset=tuned``: the options that a search has found, in place of the defaults."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from tta_bench.data.prepare import prepared
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
    study = search_of(config)
    if study is None:
        return config
    outcome = study.outcome()
    change = None if outcome is None else study.change_since(outcome)
    if outcome is None or change is not None:
        raise UserError(_search_again(study, change))
    values: dict[str, Any] = {"name": name, "preset": TUNED, **study.defaults, **outcome["options"]}
    method_options(values)
    return config.model_copy(update={"method": values})


def search_of(config: RunConfig) -> Study | None:
    """The search that ``method.preset=tuned`` asks for: the one that begins with the other options as they are.

    None of any other preset.
    """
    if config.method.get("preset") != TUNED:
        return None
    return Study(config.model_copy(update={"method": {**config.method, "preset": PRESETS[0]}}))


def check_searched_images(searches: Iterable[Study | None]) -> None:
    """Find out before any work whether the source images are those that options were searched on.

    Images that are not here cannot be compared: a run that needs them says so itself.

    Args:
        searches: of all runs.

    Raises:
        UserError: every search of other images.
    """
    faults = []
    for study in {study.folder: study for study in searches if study is not None}.values():
        outcome, source = study.outcome(), study.config.source
        with suppress(UserError):
            domain = prepared(study.config, [source])[source]
            if outcome is not None and outcome["inputs"].get("images") != domain.fingerprint:
                faults.append(_search_again(study, f"the images of {source} changed since"))
    if faults:
        raise UserError(faults)


def _search_again(study: Study, change: str | None) -> str:
    """That there is no search, or none any more, and what to do."""
    found = "no finished search" if change is None else f"{change}, so there is no search any more"
    name = study.config.method["name"]
    return (
        f"method.preset=tuned: {found} for method={name} on source={study.config.source} with these settings "
        f"({study.path}): run one with experiment=search, or +method={name} tune=true, and the same data, model, "
        "branches, training, protocol and search settings"
    )
