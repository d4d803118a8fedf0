"""Episodic: every image on its own."""

from __future__ import annotations

from tta_bench.adaptation.scenarios.base import register_scenario
from tta_bench.adaptation.scenarios.online import Online


@register_scenario("episodic")
class Episodic(Online):
    """A stream per target, with a fresh state at each of its images."""

    sentence = "The state starts anew from the source model on every image."
    episodic = True
