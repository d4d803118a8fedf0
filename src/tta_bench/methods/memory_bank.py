"""A memory of past images that is asked for those similar to the present one (DLTTA, VPTTA)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.methods.state import State

_FIRST_PLACES = 8


class MemoryBank(State):
    """The last images of each stream: a key and a value of each.

    How many a stream has is known to the device alone, because not every image is kept, and the host never asks.

    Args:
        streams: how many.
        capacity: number of images of each.
        device: where keys and values are.
    """

    transient = frozenset({"capacity"})

    def __init__(self, streams: int, capacity: int, device: torch.device) -> None:
        super().__init__()
        self.capacity = capacity
        self._pushes = 0  # no stream was given more images
        self._counts = torch.zeros(streams, dtype=torch.long, device=device)
        self._keys = torch.empty(streams, 0, device=device)
        self._values = torch.empty(streams, 0, device=device)

    def lengths(self, streams: int) -> Tensor:
        """How many images the first streams have in their memory, ``[A]``."""
        return self._counts[:streams].clamp(max=self.capacity)

    def push(self, keys: Tensor, values: Tensor, is_kept: Tensor) -> None:
        """Add an image to each of the first streams; a full memory loses its oldest.

        Args:
            keys: ``[A, d]``.
            values: ``[A, ...]``.
            is_kept: Bool ``[A]``, to which streams.
        """
        self._pushes += 1
        if self._keys.shape[1] < min(self._pushes, self.capacity):
            self._keys = self._with_more_places(self._keys, keys)
            self._values = self._with_more_places(self._values, values)
        rows = torch.arange(len(keys), device=keys.device)
        # Before there are as many places as may be, each image has one of its own.
        places = self._counts[: len(keys)] % self._keys.shape[1]
        for memory, new in ((self._keys, keys), (self._values, values)):
            kept = is_kept.view(-1, *[1] * (new.dim() - 1))
            memory[rows, places] = torch.where(kept, new, memory[rows, places])
        self._counts[: len(keys)] += is_kept

    def _with_more_places(self, memory: Tensor, new: Tensor) -> Tensor:
        """The memory ``[streams, places, ...]`` with more places for ``[A, ...]`` like these."""
        old = memory.shape[1]
        grown = new.new_zeros(len(memory), min(self.capacity, max(_FIRST_PLACES, 2 * old)), *new.shape[1:])
        if old:
            grown[:, :old] = memory
        return grown

    def recall(self, keys: Tensor, neighbours: int, temperature: float) -> Tensor | None:
        """Mean value of the most similar images, weighted by :func:`attention`.

        Args:
            keys: ``[A, d]`` of the first streams.
            neighbours: how many images.
            temperature: of the attention.

        Returns:
            ``[A, ...]``, of no meaning in the rows of streams with fewer images; None if no stream can have as many.
        """
        count, places = self._counts[: len(keys), None], self._keys.shape[1]
        if places < neighbours:
            return None
        position = torch.arange(places, device=keys.device)
        oldest_first = (torch.where(count > places, count, 0) + position) % places
        cosines = F.cosine_similarity(keys[:, None], self._keys[: len(keys)], dim=2).gather(1, oldest_first)
        nearest = cosines.masked_fill(position >= count, -torch.inf).topk(neighbours)
        chosen = oldest_first.gather(1, nearest.indices)
        values = self._values[torch.arange(len(keys), device=keys.device)[:, None], chosen]
        weights = attention(nearest.values, temperature)
        return (weights[:, None] @ values.flatten(2)).view(len(keys), *values.shape[2:])


def attention(cosines: Tensor, temperature: float) -> Tensor:
    """Weights ``[..., K]`` of past images by the cosine similarities ``[..., K]`` of their keys."""
    return torch.softmax(cosines / temperature, dim=-1)
