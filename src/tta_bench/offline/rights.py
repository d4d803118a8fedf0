"""What a run may see: of the system before the test and of the method in it, together."""

from __future__ import annotations

from typing import NamedTuple

from tta_bench.methods.base import METHODS
from tta_bench.offline.bank import needs_bank
from tta_bench.offline.options import card_of
from tta_bench.schema import UNADAPTED, RunConfig


class Rights(NamedTuple):
    """What a run may see, from the cards.

    Attributes:
        setting: in a word; ``none`` where nothing is adapted, and with ``+bank`` where the method has a bank of source
            images and the system no source images.
        may_see: the same written out.
        reconstruction: whether some of it is ours, because its authors' code and text cannot be had.
    """

    setting: str
    may_see: str
    reconstruction: bool


def rights_of(config: RunConfig) -> Rights:
    """What a run may see.

    Raises:
        UserError: its method or system is of a plug-in that is gone.
    """
    system, method = card_of(config.adapt), METHODS.get(config.method["name"]).card
    if config.called == UNADAPTED:
        return Rights("none", "nothing", False)
    setting, seen = "tta", []
    if system is not None and config.stages:
        setting = "continual"
        seen.append("the labelled images of each stage" + (" and of all before" if system.needs_source else ""))
    elif system is not None:
        setting, labels = system.setting, (config.adapt or {}).get("labels")
        needs = [need.replace("_", " ") for need in system.needs]
        seen += [f"{labels} {need}" if need == "target labels" else need for need in needs]
    if system is None or config.method["name"] != UNADAPTED:
        seen.append("the test image")
    banks = ["a bank of source images"] * needs_bank(config)
    banks += [f"what images of {', '.join(config.sources)} look like"] if config.route else []
    if banks and not (system is not None and system.needs_source):
        setting += "+bank"
    reconstruction = bool(method.reconstruction or (system is not None and system.reconstruction))
    return Rights(setting, ", ".join([*seen, *banks]), reconstruction)
