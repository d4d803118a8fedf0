"""What an examination of a source model on its own domain has found, and whether that is enough to adapt it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tta_bench.runtime.sections import DiagnosticsConfig

FILE = "examination.json"
"""Beside the checkpoint of a source model that was trained here."""

Percent = Annotated[float, Field(ge=0, le=100 + 1e-6)]  # a whole overlap may be rounded to a little more


def examination_of(summary: Mapping[str, Any]) -> Examination | None:
    """That of the source model of a cell, from its ``summary.json``; None if there is none."""
    found = summary["source_checkpoint"].get("examination")
    return None if found is None else Examination.model_validate(found)


def with_examination(summary: Mapping[str, Any], examination: Examination | None) -> dict[str, Any]:
    """The content of ``summary.json`` with an examination of the source model; None says that there was none."""
    found = None if examination is None else examination.model_dump(mode="json")
    return {**summary, "source_checkpoint": {**summary["source_checkpoint"], "examination": found}}


class Examination(BaseModel):
    """The findings.

    Attributes:
        images: which of its domain: ``held-out`` of its training, those of its ``training`` where none is held out,
            or any, ``seen or not``, where the training is not recorded.
        n: how many.
        dice: with its own statistics, percent; mean over images, then classes.
        ece: expected calibration error of its probabilities, percent.
        dice_image_statistics: Dice with the statistics of each image instead; None for a network without running
            statistics.
    """

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    images: Literal["held-out", "training", "seen or not"]
    n: Annotated[int, Field(ge=1)]
    dice: Percent
    ece: Percent
    dice_image_statistics: Percent | None

    def __str__(self) -> str:
        image = "" if self.dice_image_statistics is None else f", {self.dice_image_statistics:.2f} by image statistics"
        return f"Dice {self.dice:.2f}{image}, calibration error {self.ece:.2f} ({self.n} {self.where})"

    @property
    def where(self) -> str:
        """On which images, in words."""
        return f"images, {self.images}" if self.images == "seen or not" else f"{self.images} images"

    def weaknesses(self, bar: DiagnosticsConfig) -> list[str]:
        """Why the model is no good one to adapt, as ends of sentences that begin with its name; none if it is.

        Args:
            bar: ``source_dice`` is the in-domain Dice that it must have, percent; ``source_gap`` the points by which
                the statistics of each image may be better at home than its own, which have not converged where they
                are. None for any.
        """
        lowest_dice, largest_gap, found = bar.source_dice, bar.source_gap, []
        if lowest_dice is not None and self.dice < lowest_dice:
            found.append(f"has an in-domain Dice of {self.dice:.2f}, below {lowest_dice:g}")
        gap = 0.0 if self.dice_image_statistics is None else self.dice_image_statistics - self.dice
        if largest_gap is not None and gap > largest_gap:
            found.append(
                f"gains {gap:.2f} points at home by the statistics of each image, above {largest_gap:g}: its own have "
                "not converged"
            )
        return found
