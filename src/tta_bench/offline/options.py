"""The section ``adapt`` of a configuration as the typed options of a registered system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf

from tta_bench.errors import UserError
from tta_bench.methods.options import typed_options
from tta_bench.offline.base import SYSTEMS, SystemOptions
from tta_bench.offline.card import SystemCard
from tta_bench.runtime.composed import composed_file


def system_options(section: Mapping[str, Any]) -> SystemOptions:
    """The hyper-parameters of a system (its YAML's content), typed and checked.

    Raises:
        UserError: no or an unknown name, unknown or missing keys, wrong types or values out of range.
    """
    if section.get("name") is None:
        raise UserError(f"no system is chosen: add +adapt=NAME, {SYSTEMS.nearest('')}")
    values = {key: value for key, value in section.items() if key != "name"}
    options: SystemOptions = typed_options(SYSTEMS.get(str(section["name"])).Options, values, "adapt")
    return options


def identified_system(section: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a system: name and options as typed values; one without effect is at its default."""
    options, usual = system_options(section), default_section(str(section["name"]))
    return {**section, **asdict(options), **{key: usual[key] for key in options.without_effect() & usual.keys()}}


def default_section(name: str) -> dict[str, Any]:
    """What the YAML of a registered system sets, without a command line; unresolved where it refers to other keys."""
    content: Any = OmegaConf.to_container(composed_file("adapt", name, SYSTEMS.get(name).__module__))
    return dict(content)


def card_of(section: Mapping[str, Any] | None) -> SystemCard | None:
    """The card of the system of a section; None without one."""
    return SYSTEMS.get(str(section["name"])).card if section is not None else None
