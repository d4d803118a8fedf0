"""The facts of a system, in plain values: `tta-bench list` reads them from its source file."""

from __future__ import annotations

from dataclasses import dataclass

SETTINGS = {
    "sda": "a few labelled images of the target, and whatever else is named",
    "uda": "all unlabelled images of the target and images of the source domain",
    "sfda": "all unlabelled images of the target, and the source model",
    "train": "the source domain alone",
}
"""Setting -> what a system of it may see, the widest first; those of methods are on their own cards."""


@dataclass(frozen=True)
class SystemCard:
    """The facts of a system.

    Attributes:
        adapts: what of the source model changes.
        needs: all that it is handed beside the source model, attributes of
            :class:`~tta_bench.offline.access.Access`; the rest does not exist for it.
        paper: author, venue, year.
        licence: of the original code.
        stochastic: whether another seed gives another model.
        reconstruction: what is ours in it, where its authors' code and text cannot be had; a mark on every row.
    """

    adapts: str
    needs: tuple[str, ...]
    paper: str
    licence: str
    stochastic: bool = True
    reconstruction: str = ""

    @property
    def setting(self) -> str:
        """The setting that follows from the needs, so that no card can claim another."""
        if "target_labels" in self.needs:
            return "sda"
        if "target_images" not in self.needs:
            return "train"
        return "uda" if self.needs_source else "sfda"

    @property
    def needs_source(self) -> bool:
        """Whether the images of the source domain have to be there."""
        return any(need in self.needs for need in ("source_images", "source_labels"))
