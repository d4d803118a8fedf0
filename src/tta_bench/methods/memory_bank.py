"""A memory of past images that is asked for those similar to the present one (DLTTA, VPTTA)."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class MemoryBank:
    """The last images of one stream: a key and a value of each.

    Args:
        capacity: number of images.
    """

    def __init__(self, capacity: int) -> None:
        self._entries: deque[tuple[Tensor, Tensor]] = deque(maxlen=capacity)

    def __len__(self) -> int:
        """Number of images in the memory."""
        return len(self._entries)

    def push(self, key: Tensor, value: Tensor) -> None:
        """Add an image: a key ``[d]`` and a value of any shape; a full memory loses its oldest."""
        self._entries.append((key, value))

    def state_dict(self) -> dict[str, Any]:
        """The images in the memory, oldest first."""
        return {"entries": list(self._entries)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the images of a memory of the same capacity."""
        self._entries = deque(state_dict["entries"], self._entries.maxlen)

    def recall(self, key: Tensor, neighbours: int, temperature: float) -> Tensor:
        """Mean value of the most similar images, weighted by :func:`attention`."""
        cosines = F.cosine_similarity(key[None], torch.stack([past for past, _ in self._entries]), dim=1)
        nearest = cosines.topk(neighbours)
        values = torch.stack([self._entries[i][1] for i in nearest.indices.tolist()])
        return torch.tensordot(attention(nearest.values, temperature), values, dims=1)


def attention(cosines: Tensor, temperature: float) -> Tensor:
    """Weights ``[K]`` of past images by the cosine similarities ``[K]`` of their keys."""
    return torch.softmax(cosines / temperature, dim=0)
