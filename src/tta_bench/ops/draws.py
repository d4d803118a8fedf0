"""Random numbers that depend on (seed, domain, image) alone: never on neighbours, order or hardware."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from tta_bench.runtime.threads import available_cores


@dataclass(frozen=True)
class ImageKey:
    """What identifies one image in one run.

    Attributes:
        seed: the run's seed.
        domain: the target domain.
        image: the image's name within the domain.
    """

    seed: int
    domain: str
    image: str


@dataclass(frozen=True)
class Draw:
    """What is drawn for several streams; see :func:`drawn`.

    Attributes:
        each: ``each(generator, *arguments)`` draws for one stream.
        arguments: plain values.
        joined: makes one of what was drawn for all of them.
        purpose: of the generators.
        update: which of several updates on the images.
    """

    each: Callable[..., Any]
    arguments: tuple[Any, ...]
    joined: Callable[[list[Any]], Any]
    purpose: str = ""
    update: int = 0

    def of(self, key: ImageKey) -> Any:
        """What is drawn for an image."""
        return self.each(_generator(key, self.update, self.purpose), *self.arguments)


class PrefetchedKeys(list[ImageKey], ABC):
    """Keys of images for which what will probably be drawn is drawn ahead."""

    @abstractmethod
    def result(self, draw: Draw) -> Any:
        """What was drawn for them; it is drawn now if it was not expected."""


@dataclass(frozen=True)
class Draws:
    """The random draws of one update of several streams.

    Asking twice for the same purpose gives the same numbers, so that two passes of one update can share a draw.

    Attributes:
        keys: the image of each stream.
        update: which of several updates on these images.
    """

    keys: Sequence[ImageKey]
    update: int = 0

    def generators(self, purpose: str) -> Generators:
        """One CPU generator per stream; draw on the CPU and move, so that devices agree."""
        return Generators(self, purpose)


class Generators(list[torch.Generator]):
    """The generators of one purpose, which :func:`drawn` may find used already.

    Args:
        draws: of which they are.
        purpose: what is to be drawn.
    """

    def __init__(self, draws: Draws, purpose: str) -> None:
        super().__init__(_generator(key, draws.update, purpose) for key in draws.keys)
        self.draws = draws
        self.purpose = purpose


def drawn(
    generators: Sequence[torch.Generator],
    each: Callable[..., Any],
    *arguments: Any,
    joined: Callable[[list[Any]], Any] = torch.stack,
) -> Any:
    """What is drawn for each stream, all of it joined.

    A long draw is asked for in this way: beside a GPU it is made by threads, in a run while the device works on the
    image before, where the same was asked for then. The numbers are the same.

    Args:
        generators: one per stream; nothing else is drawn from them.
        each: ``each(generator, *arguments)`` draws for one stream, on the CPU; a function of a module or a class, which
            depends on nothing else.
        arguments: plain values.
        joined: makes a tensor, or tuples of tensors, of the list of what was drawn; likewise.

    Returns:
        Tensors of the CPU, which must not be written to.
    """
    if isinstance(generators, Generators) and isinstance(keys := generators.draws.keys, PrefetchedKeys):
        return keys.result(Draw(each, arguments, joined, generators.purpose, generators.draws.update))
    beside_a_gpu = torch.cuda.is_initialized() and len(generators) > 1
    every = (_threads().map if beside_a_gpu else map)(lambda generator: each(generator, *arguments), generators)
    return joined(list(every))


MOST_THREADS = 4
"""That draw; a thread of a recent CPU draws the noise of an image of 512 pixels in less than 10 ms."""


def drawing_threads() -> ThreadPoolExecutor:
    """Threads that draw beside the one that a GPU gets its work from."""
    return ThreadPoolExecutor(max(1, min(MOST_THREADS, available_cores() // 4)), "draws")


_threads = cache(drawing_threads)


def stacked_parts(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Of tuples of tensors the tuple of their stacks."""
    return tuple(map(torch.stack, zip(*parts, strict=True)))


def _generator(key: ImageKey, update: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(key.seed, key.domain, key.image, update, purpose))


def seed_of(*parts: object) -> int:
    """A 63-bit seed from ``parts`` alone, equal on every machine."""
    digest = blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
