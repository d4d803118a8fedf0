"""What a method keeps does not grow with the images that it has seen."""

import copy
import ctypes
import gc
import sys

import pytest
import torch
from settings import options_of

from tta_bench.methods.base import METHODS, Protocol
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import ImageKey

EARLY, LATE = 40, 200
FEW_BYTES = 2**20
"""A twentieth of what it is where each image leaves its logits behind, of two classes, in float32."""


class Heap(ctypes.Structure):
    """Glibc's ``struct mallinfo2``."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        )
    ]


def bytes_in_use():
    """What the C heap holds, tensors among it; what it has free and keeps does not count."""
    gc.collect()
    heap = ctypes.CDLL(None).mallinfo2
    heap.restype = Heap
    found = heap()
    return found.uordblks + found.hblkhd


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks glibc")
@pytest.mark.parametrize("name", METHODS.names())
def test_memory_after_200_images_is_that_after_40(small_net, name):
    kind, options = METHODS.get(name), options_of(name)
    network = AdaptableNetwork(copy.deepcopy(small_net).float(), kind.branches(options))
    method = kind(network, options, Protocol())
    method.start(1)
    generator, used = torch.Generator().manual_seed(0), {}
    for k in range(1, LATE + 1):
        method.step(torch.rand(1, 3, 64, 64, generator=generator), [ImageKey(0, "B", f"image{k}")])
        if k in (EARLY, LATE):
            used[k] = bytes_in_use()
    assert used[LATE] - used[EARLY] < FEW_BYTES
