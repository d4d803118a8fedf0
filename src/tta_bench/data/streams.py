"""Streams: ordered passes over target images, several of them side by side."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tta_bench.data.domain import Domain, network_inputs
from tta_bench.data.held_out import tested
from tta_bench.data.prefetching import Prefetcher
from tta_bench.ops.draws import ImageKey, seed_of
from tta_bench.ops.preprocessing import PAPER, Preprocessing
from tta_bench.runtime.transfer import pinned


@dataclass(frozen=True)
class StreamImage:
    """One place in a stream.

    Attributes:
        domain: the target.
        index: of the image, in file order.
        position: how many images of this target come before it.
        member: whose stream it is, by number, where several cells share a batch.
    """

    domain: str
    index: int
    position: int
    member: int = 0


Stream = tuple[StreamImage, ...]
"""What one copy of the adaptable state lives through."""


@dataclass
class ImageBatch:
    """What a method sees of each of ``A`` active streams: one unlabelled image, or a batch of them.

    Attributes:
        images: ``[A, 3, size, size]`` in [0, 1]; of batches ``[A, batch, 3, size, size]``.
        keys: which image each is, or the first of its batch.
        places: of the images, stream by stream.
    """

    images: Tensor
    keys: list[ImageKey]
    places: list[StreamImage]


def passes(
    domains: Mapping[str, Sized], targets: Sequence[str], order: int = 0, evaluation: Literal["held_out"] | None = None
) -> list[Stream]:
    """One pass over the images of each target; a scenario makes streams of them.

    Args:
        domains: the targets, of which the number of images counts.
        targets: their names, in order.
        order: 0 for file order; ``k`` for the ``k``-th permutation of each target, a function of ``k`` and the
            target's name and size alone.
        evaluation: of the protocol: which images are tested on, see :mod:`tta_bench.data.held_out`.
    """
    passes = []
    for name in targets:
        test = set(tested(name, len(domains[name]), evaluation))
        indices = [index for index in _order(order, name, domains[name]) if index in test]
        passes.append(tuple(StreamImage(name, index, position) for position, index in enumerate(indices)))
    return passes


def _order(order: int, name: str, domain: Sized) -> list[int]:
    """Image indices in the order of the stream."""
    if order == 0:
        return list(range(len(domain)))
    generator = torch.Generator().manual_seed(seed_of("order", order, name))
    return torch.randperm(len(domain), generator=generator).tolist()


class LockstepGroups:
    """Streams in groups of those side by side, longest first, so that the active ones are always a prefix.

    A group is formed when it is asked for, because how many streams fit may turn out on the way.

    Args:
        streams: in any order.
        width: most streams of a group; may change between two groups.
        batch: images of a stream at a time. If there are several, the streams of a group are equally long, so that
            their last batches are.

    Attributes:
        streams: longest first, in the order of the groups.
        sizes: how many streams each group has that was begun so far.
    """

    def __init__(self, streams: Sequence[Stream], width: int = 1, batch: int = 1) -> None:
        self.streams = sorted(streams, key=len, reverse=True)
        self.width = width
        self.batch = batch
        self.sizes: list[int] = []
        self._next: int | None = None

    def __iter__(self) -> Iterator[list[Stream]]:
        """Begin one group after another, from the first stream that is in none."""
        while left := self.streams[sum(self.sizes) :]:
            width, self._next = self._next or self.width, None
            group = [each for each in left[:width] if self.batch == 1 or len(each) == len(left[0])]
            self.sizes.append(len(group))
            yield group

    def go_on_from(self, sizes: Sequence[int]) -> None:
        """Begin with the last group of a run before, whose groups these were; the others are done."""
        *self.sizes, self._next = sizes

    def halve(self) -> None:
        """Begin the last group again with half as many streams, more of which do not fit."""
        self.width = self.sizes.pop() // 2

    def images_in_a_row(self) -> int:
        """Images of the groups begun so far, of which those side by side count once."""
        firsts = (0, *accumulate(self.sizes[:-1]))
        return sum(len(self.streams[first]) for first in firsts[: len(self.sizes)])


class StreamImages(Dataset[Tensor]):
    """The images ``[3, size, size]`` of a stream, in order, each read when it is asked for.

    Args:
        domains: the prepared target domains.
        stream: the places.
        preprocessing: of the source model.
    """

    def __init__(self, domains: Mapping[str, Domain], stream: Stream, preprocessing: Preprocessing = PAPER) -> None:
        self.domains = domains
        self.stream = stream
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        """Images of the stream."""
        return len(self.stream)

    def __getitem__(self, k: int) -> Tensor:
        """The ``k``-th of them."""
        return self.domains[self.stream[k].domain].image(self.stream[k].index, self.preprocessing)


class LockstepDataset(Dataset[ImageBatch]):
    """Item ``k`` holds the next ``batch`` images after ``first + k * batch`` of every stream that has any left.

    Args:
        domains: the prepared target domains.
        streams: longest first; equally long if ``batch`` is not 1.
        seeds: of each member whose streams these are, part of every image's key.
        first: place in the streams to begin at, below the length of the longest.
        batch: images of a stream at a time; with 1 the images have no such dimension.
        preprocessing: of the source model.
    """

    def __init__(
        self,
        domains: Mapping[str, Domain],
        streams: Sequence[Stream],
        seeds: Sequence[int],
        first: int = 0,
        batch: int = 1,
        preprocessing: Preprocessing = PAPER,
    ) -> None:
        self.domains = domains
        self.streams = streams
        self.seeds = seeds
        self.first = first
        self.batch = batch
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        """Length of what is left of the longest stream, in batches."""
        return math.ceil((len(self.streams[0]) - self.first) / self.batch)

    def __getitem__(self, k: int) -> ImageBatch:
        """The images of the active streams."""
        batches = self._batches(k)
        places = [place for batch in batches for place in batch]
        images = network_inputs([(self.domains[place.domain], place.index) for place in places], self.preprocessing)
        return ImageBatch(
            images=images if self.batch == 1 else images.unflatten(0, (len(batches), -1)),
            keys=self.keys(k),
            places=places,
        )

    def keys(self, k: int) -> list[ImageKey]:
        """Those of an item, without its images."""
        firsts = [first for first, *_ in self._batches(k)]
        return [ImageKey(self.seeds[p.member], p.domain, self.domains[p.domain].image_names[p.index]) for p in firsts]

    def _batches(self, k: int) -> list[Stream]:
        """The places of an item, of each active stream."""
        if not 0 <= k < len(self):
            raise IndexError(k)
        begin = self.first + k * self.batch
        return [stream[begin : begin + self.batch] for stream in self.streams if begin < len(stream)]


AHEAD = 2
"""Batches that are read at the same time."""


class Ahead:
    """The batches of a data set in order, read by threads, with their draws, while those before are worked on.

    Where a GPU is at work they are in memory from which it copies by itself.

    Args:
        images: the data set.
    """

    def __init__(self, images: LockstepDataset) -> None:
        self.images = images

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.images)

    def __iter__(self) -> Iterator[ImageBatch]:
        """From the first."""
        with ThreadPoolExecutor(AHEAD) as pool, Prefetcher() as prefetcher:
            waiting: deque[Future[ImageBatch]] = deque()
            for k in range(len(self) + AHEAD):
                if k < len(self):
                    waiting.append(pool.submit(self._read, k, prefetcher))
                if k >= AHEAD and waiting:
                    yield waiting.popleft().result()

    def _read(self, k: int, prefetcher: Prefetcher) -> ImageBatch:
        keys = prefetcher.begin(self.images.keys(k))
        batch = self.images[k]
        keys.settle()
        return replace(batch, images=pinned(batch.images), keys=keys)
