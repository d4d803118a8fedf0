"""Pseudo-targets: images of the source domain under synthetic shifts, with the labels that they have as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tta_bench.data.domain import Domain
from tta_bench.models.checkpoint import SourceModel
from tta_bench.ops.draws import seed_of
from tta_bench.ops.shifts import shifted
from tta_bench.source.held_out import split


@dataclass(frozen=True)
class ShiftedDomain(Domain):
    """A domain whose images are shifted when they are read: all shifts of all images would not fit into memory.

    Attributes:
        shift: name of the shift.
        strength: of the shift.
        seed: of what the shift draws at random, together with the name of the image.
    """

    shift: str = ""
    strength: float = 0.0
    seed: int = 0

    def levels(self, index: int) -> Tensor:
        """See the base class; of the shifted image."""
        drawn = torch.Generator().manual_seed(seed_of(self.seed, self.name, self.image_names[index]))
        return shifted(super().levels(index), self.shift, self.strength, drawn)


def held_out(source: SourceModel, domain: Domain) -> tuple[list[int], bool]:
    """The images of the source domain that its model has not seen; all of them where that is not known.

    Args:
        source: the model.
        domain: its own.

    Returns:
        Their indices, and whether the model has not seen them.
    """
    training = source.training
    if training is None or source.fingerprint != domain.fingerprint or not training.get("holdout"):
        return list(range(len(domain))), False
    return split(len(domain), training["holdout"], training["seed"])[1], True


def pseudo_targets(
    domain: Domain, indices: Sequence[int], shifts: Mapping[str, Sequence[float]], seed: int
) -> dict[str, Domain]:
    """Each shift of some images of the source as a domain of its own.

    Args:
        domain: the source.
        indices: of the images, in order.
        shifts: shift -> strengths.
        seed: of what shifts draw at random.
    """
    part, chosen = [*indices], domain.chosen(indices)
    found: dict[str, Domain] = {}
    for shift, strengths in shifts.items():
        for strength in strengths:
            name = f"{domain.name} {shift} {strength:g}"
            content = vars(chosen) | {"name": name, "fingerprint": f"{domain.fingerprint} {name} {seed} {part}"}
            found[name] = ShiftedDomain(**content, shift=shift, strength=strength, seed=seed)
    return found
