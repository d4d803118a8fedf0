"""Peak memory of a piece of work, measured and foreseen, and a C allocator that keeps what it has."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tta_bench.errors import UserError
from tta_bench.runtime.numerics import is_gpu

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # parameters of glibc's mallopt


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next tensor instead of giving it back to the system.

    By default every big tensor is mapped afresh and cleared page by page by the kernel, which takes about half of
    the time of a convolutional network on a CPU. Returns False where the C library has no such setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(_MMAP_MAX, 0)) and bool(libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):
        return False


def _give_back_freed_memory() -> None:
    """Return what glibc keeps, for one's own high-water mark not to contain that of the work before."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, of the machine or of the GPU: it may suffice the next time."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # What torch raises where it has no type for it: its CPU allocator, CUDA and its libraries.
    words = ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(each in str(error) for each in words)


KEPT_PIXELS = 2 * 512**2
"""Of views whose activations a CPU keeps together for a gradient; a ResUNet-34 takes a GB for them. Further views pass
twice, a few at a time."""

BYTES_PER_PIXEL = {True: 768, False: 256}
"""What one image takes in a network, with and without gradients, per pixel of the input.

Measured: 1,335 and 568 bytes (the small U-Net, 512 px) to 2,000 and 1,000 (the ResUNet-34); set lower, because
what is refused must be impossible for every network.
"""

_BEYOND = 2  # times the memory there is: swapping, or a narrower network, does not save what needs more
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def total_memory(device: torch.device) -> int:
    """Bytes of the GPU if ``device`` is one, else of the machine, or of its share that a container may use."""
    if is_gpu(device):
        return int(torch.cuda.mem_get_info(device)[1])
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in map(Path, _CGROUP_LIMITS):
        with contextlib.suppress(OSError, ValueError):  # no such file, or the word "max"
            total = min(total, int(limit.read_text()))
    return total


def bytes_taken(work: Callable[[], Any], device: torch.device) -> int:
    """The most memory of a GPU that a piece of work takes beyond what is taken before; its peak is measured anew."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def free_memory(device: torch.device, processes: int = 1) -> int:
    """Bytes of a GPU that this process can still take, of the share that is its own beside others.

    Args:
        device: the GPU.
        processes: how many share it, this one included.
    """
    free, total = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for the next tensor
    return min(free + kept, total // processes)


def release_memory(device: torch.device) -> None:
    """Free what work that failed has left, and give back a GPU's blocks, which are of sizes that do not fit."""
    gc.collect()
    if is_gpu(device):
        torch.cuda.empty_cache()


def refuse_impossible(images: int, image_size: int, gradients: bool, device: torch.device, remedy: str) -> None:
    """Refuse work whose memory is far beyond what there is, instead of being killed for it.

    Args:
        images: that are in the network at once.
        image_size: side of the square images, pixels.
        gradients: whether they are kept for a backward pass.
        device: where the network runs.
        remedy: which keys to lower.

    Raises:
        UserError: with the estimate.
    """
    need, there = images * image_size**2 * BYTES_PER_PIXEL[gradients], total_memory(device)
    if need > _BEYOND * there:
        raise UserError(
            f"{images} images of {image_size} pixels at once need at least {need / 2**30:,.0f} GiB of memory, and "
            f"{'the GPU' if is_gpu(device) else 'this machine'} has {there / 2**30:,.1f}: {remedy}"
        )


class PeakMemory:
    """Peak memory since construction: of the GPU if ``device`` is one, else of this process.

    Args:
        device: where the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if is_gpu(device):
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _give_back_freed_memory()
            with contextlib.suppress(OSError):  # Linux: start the high-water mark anew
                Path("/proc/self/clear_refs").write_text("5")

    def megabytes(self) -> float:
        """The peak in MiB."""
        if is_gpu(self.device):
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)
