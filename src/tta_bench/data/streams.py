"""Streams: ordered passes over target images, several of them side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tta_bench.data.domain import Domain
from tta_bench.ops.draws import ImageKey, seed_of


@dataclass(frozen=True)
class StreamImage:
    """One place in a stream.

    Attributes:
        domain: the target.
        index: of the image, in file order.
        position: how many images of this target come before it.
    """

    domain: str
    index: int
    position: int


Stream = tuple[StreamImage, ...]
"""What one copy of the adaptable state lives through."""


@dataclass
class LabelledBatch:
    """One image of each of ``A`` active streams, as loaded.

    Attributes:
        images: ``[A, 3, size, size]`` in [0, 1].
        labels: bool ``[A, classes, size, size]``.
        keys: which image each is.
        places: likewise, with its index in its domain.
    """

    images: Tensor
    labels: Tensor
    keys: list[ImageKey]
    places: list[StreamImage]


def make_streams(
    domains: Mapping[str, Domain],
    targets: Sequence[str],
    reset: str,
    order: int = 0,
) -> list[Stream]:
    """One stream per target, or a single one through all targets if the state is never reset.

    Args:
        domains: the prepared targets.
        targets: their names, in order.
        reset: see ``conf/protocol``.
        order: 0 for file order; ``k`` for the ``k``-th permutation of each target, a function of ``k`` and the
            target's name and size alone.
    """
    per_target = [
        tuple(StreamImage(name, index, position) for position, index in enumerate(_order(order, name, domains[name])))
        for name in targets
    ]
    if reset == "never":
        return [tuple(place for stream in per_target for place in stream)]
    return per_target


def _order(order: int, name: str, domain: Domain) -> list[int]:
    """Image indices in the order of the stream."""
    if order == 0:
        return list(range(len(domain)))
    generator = torch.Generator().manual_seed(seed_of("order", order, name))
    return torch.randperm(len(domain), generator=generator).tolist()


def lockstep_groups(streams: Sequence[Stream], width: int) -> list[list[Stream]]:
    """Groups of at most ``width`` streams, longest first, so that the active ones are always a prefix."""
    ordered = sorted(streams, key=len, reverse=True)
    return [ordered[i : i + width] for i in range(0, len(ordered), width)]


class LockstepDataset(Dataset[LabelledBatch]):
    """Item ``k`` holds image ``first + k`` of every stream that has one.

    Args:
        domains: the prepared target domains.
        streams: longest first.
        seed: of the run, part of every image's key.
        first: place in the streams to begin at, below the length of the longest.
    """

    def __init__(self, domains: Mapping[str, Domain], streams: Sequence[Stream], seed: int, first: int = 0) -> None:
        self.domains = domains
        self.streams = streams
        self.seed = seed
        self.first = first

    def __len__(self) -> int:
        """Length of what is left of the longest stream."""
        return len(self.streams[0]) - self.first

    def __getitem__(self, k: int) -> LabelledBatch:
        """The images at place ``first + k`` of the active streams."""
        if not 0 <= k < len(self):
            raise IndexError(k)
        places = [stream[self.first + k] for stream in self.streams if self.first + k < len(stream)]
        return LabelledBatch(
            images=torch.stack([self.domains[p.domain].image(p.index) for p in places]),
            labels=torch.stack([self.domains[p.domain].label(p.index) for p in places]),
            keys=[ImageKey(self.seed, p.domain, self.domains[p.domain].image_names[p.index]) for p in places],
            places=places,
        )
