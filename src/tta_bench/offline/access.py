"""What a system is handed: only what its card declares; nothing else can be reached from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tta_bench.data.domain import Domain
from tta_bench.models.checkpoint.optimizer import Gathered, read_optimizer
from tta_bench.offline.beside import read_beside
from tta_bench.offline.card import SystemCard
from tta_bench.ops.draws import seed_of
from tta_bench.ops.preprocessing import Preprocessing

IMPORTANCE = "importance"
"""File of :meth:`Grounds.source_importance` beside a model."""


class AccessError(AttributeError):
    """A system has asked for what its card does not declare."""


class Images(Dataset[Tensor]):
    """Unlabelled images of a domain; its masks are not in it.

    Args:
        domain: the prepared images.
        indices: those of them that may be seen.
        preprocessing: of the source model.
    """

    def __init__(self, domain: Domain, indices: Sequence[int], preprocessing: Preprocessing) -> None:
        self._domain = domain.unlabelled()
        self._indices = tuple(indices)
        self._preprocessing = preprocessing
        self.names = tuple(domain.image_names[index] for index in indices)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._indices)

    def __getitem__(self, k: int) -> Tensor:
        """Float32 ``[3, size, size]`` in [0, 1]."""
        return self._domain.image(self._indices[k], self._preprocessing)

    def batch(self, places: Sequence[int]) -> Tensor:
        """Several of them: float32 ``[len(places), 3, size, size]``."""
        return torch.stack([self[place] for place in places])


class Labels(Dataset[Tensor]):
    """The ground truth of images, in their order; the images are not in it.

    Args:
        domain: with masks.
        indices: of the images.
    """

    def __init__(self, domain: Domain, indices: Sequence[int]) -> None:
        no_images = np.zeros((0, domain.side, domain.side, 3), np.uint8)
        self._domain = replace(domain.chosen(indices), images=no_images, truths=None)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._domain)

    def __getitem__(self, k: int) -> Tensor:
        """Bool ``[classes, size, size]``."""
        return self._domain.label(k)

    def batch(self, places: Sequence[int]) -> Tensor:
        """Several of them: bool ``[len(places), classes, size, size]``."""
        return torch.stack([self[place] for place in places])


@dataclass(frozen=True)
class Labelled:
    """Images with their ground truth, both in the same order."""

    images: Images
    labels: Labels


@dataclass(frozen=True)
class Grounds:
    """All that there is; a system never holds it.

    Attributes:
        target: the domain to adapt to.
        indices: of its images that may be used before the test.
        labels: how many of them are labelled, where labels are declared.
        source: the source domain; None where its images are not there.
        preprocessing: of the source model.
        seed: chooses the labelled images.
        source_indices: of the source's images that may be used; None for all. Those that were held out of the source
            training tell afterwards what of the source was forgotten, and nothing else.
        checkpoint: file of the source model, beside which lies what its optimiser has gathered.
    """

    target: Domain
    indices: Sequence[int]
    labels: int
    source: Domain | None
    preprocessing: Preprocessing
    seed: int
    source_indices: Sequence[int] | None = None
    checkpoint: Path | None = None

    def source_images(self) -> Images:
        """The images of the source domain that may be used."""
        return Images(*self._of_source(), self.preprocessing)

    def source_labels(self) -> Labels:
        """Their ground truth."""
        return Labels(*self._of_source())

    def _of_source(self) -> tuple[Domain, Sequence[int]]:
        assert self.source is not None
        return self.source, range(len(self.source)) if self.source_indices is None else self.source_indices

    def source_optimiser(self) -> Gathered:
        """What the optimiser of the source training has gathered of every parameter."""
        assert self.checkpoint is not None
        return read_optimizer(self.checkpoint)

    def source_importance(self) -> Mapping[str, Tensor]:
        """How much the stages before need each parameter, by its name."""
        assert self.checkpoint is not None
        return read_beside(self.checkpoint, IMPORTANCE)

    def target_images(self) -> Images:
        """The images of the target that may be used before the test."""
        return Images(self.target, self.indices, self.preprocessing)

    def target_labels(self) -> Labelled:
        """Some of them with their ground truth: more labels are those of fewer and some more."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, "labelled", self.target.name))
        order = torch.randperm(len(self.indices), generator=generator)[: self.labels].tolist()
        chosen = sorted(self.indices[place] for place in order)
        return Labelled(Images(self.target, chosen, self.preprocessing), Labels(self.target, chosen))


NEEDS: Mapping[str, Callable[[Grounds], Any]] = {
    "source_images": Grounds.source_images,
    "source_labels": Grounds.source_labels,
    "source_optimiser": Grounds.source_optimiser,
    "source_importance": Grounds.source_importance,
    "target_images": Grounds.target_images,
    "target_labels": Grounds.target_labels,
}
"""What a card may declare -> what is handed over for it."""


class Access:
    """What a card declares, as attributes.

    Args:
        card: of the system.
        grounds: all that there is.
    """

    source_images: Images
    source_labels: Labels
    source_optimiser: Gathered
    source_importance: Mapping[str, Tensor]
    target_images: Images
    target_labels: Labelled

    def __init__(self, card: SystemCard, grounds: Grounds) -> None:
        vars(self).update({need: NEEDS[need](grounds) for need in card.needs})

    def __getattr__(self, name: str) -> Any:
        raise AccessError(f"'{name}' is not among the needs that the system's card declares")
