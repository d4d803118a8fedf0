"""Random numbers that depend on (seed, domain, image) alone: never on neighbours, order or hardware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch


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
class Draws:
    """The random draws of one update of several streams.

    Asking twice for the same purpose gives the same numbers, so that two passes of one update can share a draw.

    Attributes:
        keys: the image of each stream.
        update: which of several updates on these images.
    """

    keys: Sequence[ImageKey]
    update: int = 0

    def generators(self, purpose: str) -> list[torch.Generator]:
        """One CPU generator per stream; draw on the CPU and move, so that devices agree."""
        return [
            torch.Generator().manual_seed(seed_of(key.seed, key.domain, key.image, self.update, purpose))
            for key in self.keys
        ]


def seed_of(*parts: object) -> int:
    """A 63-bit seed from ``parts`` alone, equal on every machine."""
    digest = blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
