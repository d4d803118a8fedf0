"""A memory of past images that is asked for those similar to the present one (DLTTA, VPTTA)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.methods.state import State


class MemoryBank(State):
    """The last images of one stream: a key and a value of each.

    Args:
        capacity: number of images.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self._entries: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        """Number of images in the memory."""
        return len(self._entries)

    def push(self, key: Tensor, value: Tensor) -> None:
        """Add an image: a key ``[d]`` and a value of any shape; a full memory loses its oldest."""
        self._entries = [*self._entries, (key, value)][-self.capacity :]

    def recall(self, key: Tensor, neighbours: int, temperature: float) -> Tensor:
        """Mean value of the most similar images, weighted by :func:`attention`."""
        cosines = F.cosine_similarity(key[None], torch.stack([past for past, _ in self._entries]), dim=1)
        nearest = cosines.topk(neighbours)
        values = torch.stack([self._entries[i][1] for i in nearest.indices.tolist()])
        return torch.tensordot(attention(nearest.values, temperature), values, dims=1)


def attention(cosines: Tensor, temperature: float) -> Tensor:
    """Weights ``[K]`` of past images by the cosine similarities ``[K]`` of their keys."""
    return torch.softmax(cosines / temperature, dim=0)
