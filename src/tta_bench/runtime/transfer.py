"""Tensors between the host and a device, in either direction without a wait."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from tta_bench.runtime.numerics import HOST, is_gpu


def pinned(tensor: Tensor) -> Tensor:
    """A tensor of the host in memory from which a GPU copies by itself, if this process has one at work."""
    return tensor.pin_memory() if torch.cuda.is_initialized() else tensor


def host_zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """Zeros to be written over and sent: in memory as that of :func:`pinned`."""
    return torch.zeros(shape, dtype=dtype, pin_memory=torch.cuda.is_initialized())


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, by a copy that the host does not wait for; on the host the tensor itself.

    A GPU copies while it works on what it was given before; what it is given from now on waits for the copy. Nobody has
    to keep what is sent: torch frees pinned memory once the copy is done.
    """
    if not is_gpu(device):
        return tensor.to(device, non_blocking=True)
    present = torch.cuda.current_stream(device)
    queue = _queue_of_copies(present.device)
    with torch.cuda.stream(queue):
        copy = tensor.pin_memory().to(device, non_blocking=True)
    present.wait_stream(queue)
    copy.record_stream(present)
    return copy


@cache
def _queue_of_copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def fetched(tensor: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to the host.

    Returns:
        A function that waits for the copy, in whichever thread, and returns it; of the host the tensor itself.
    """
    copy = tensor.to(HOST, non_blocking=True)  # from a GPU into pinned memory
    if not is_gpu(tensor.device):
        return lambda: copy
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(tensor.device))

    def waited_for() -> Tensor:
        done.synchronize()
        return copy

    return waited_for
