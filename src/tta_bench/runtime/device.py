"""Where the tensors live."""

from __future__ import annotations

import torch

from tta_bench.errors import UserError, nearest


def resolve_device(name: str) -> torch.device:
    """The device for ``device=auto|cpu|cuda``; ``auto`` takes the GPU where there is one.

    Raises:
        UserError: an unknown name, or ``cuda`` on a machine without a usable GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={name}: {nearest(name, ('auto', 'cpu', 'cuda'))}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("device=cuda, but PyTorch finds no usable GPU: use device=cpu or device=auto")
    return torch.device("cpu" if name == "cpu" or not available else "cuda")
