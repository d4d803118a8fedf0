"""Longer pseudo-targets: the same images of the source several times, each time in another order and shifted anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tta_bench.data.domain import Domain
from tta_bench.ops.draws import seed_of
from tta_bench.ops.shifts import SHIFTS
from tta_bench.search.pseudo_targets import ShiftedDomain, pseudo_targets

_WEAKEST = 0.5
"""Part of a shift's strength that an image has at least when it is seen again."""


@dataclass(frozen=True)
class _Varied(ShiftedDomain):
    """A pseudo-target in which images that are seen again are shifted by a part of the strength, drawn for each.

    Attributes:
        first: how many images, the first ones, are seen for the first time.
    """

    first: int = 0

    def levels(self, index: int) -> Tensor:
        """See the base class."""
        if index < self.first:
            return super().levels(index)
        drawn = torch.Generator().manual_seed(seed_of(self.seed, self.name, self.image_names[index], "strength"))
        part = _WEAKEST + (1 - _WEAKEST) * float(torch.rand((), generator=drawn))
        identity = SHIFTS[self.shift].identity
        return replace(self, strength=identity + part * (self.strength - identity), first=len(self)).levels(index)


def longer_targets(
    domain: Domain, indices: Sequence[int], shifts: Mapping[str, Sequence[float]], seed: int, passes: int
) -> dict[str, Domain]:
    """As :func:`~tta_bench.search.pseudo_targets.pseudo_targets`, which each begins with, then the images again.

    Whatever is drawn for an image, by its shift or by a method, is drawn anew each time.

    Args:
        domain: the source.
        indices: of the images, in order.
        shifts: shift -> strengths.
        seed: of the orders and of what shifts draw at random.
        passes: over the images, 1 or more; all of them are kept in memory.
    """
    order, names = [*indices], [domain.image_names[index] for index in indices]
    for number in range(2, passes + 1):
        drawn = torch.Generator().manual_seed(seed_of(seed, "pass", number))
        again = [indices[place] for place in torch.randperm(len(indices), generator=drawn).tolist()]
        order += again
        names += [f"{domain.image_names[index]}, pass {number}" for index in again]
    fingerprint = f"{domain.fingerprint} {passes} passes"
    whole = replace(domain.chosen(order), image_names=tuple(names), fingerprint=fingerprint)
    targets = pseudo_targets(whole, range(len(whole)), shifts, seed)
    return {name: _Varied(**vars(target), first=len(indices)) for name, target in targets.items()}
