import sys

import pytest
import torch

from tta_bench.memory import PeakMemory, keep_freed_memory

MEGABYTES = 400


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the mark cannot be started anew")
def test_the_peak_does_not_contain_the_work_before():
    keep_freed_memory()
    before = torch.ones(MEGABYTES * 2**18)  # 2**18 numbers of four bytes are one
    whole = PeakMemory(torch.device("cpu")).megabytes()
    del before
    small = PeakMemory(torch.device("cpu")).megabytes()
    assert whole - small > 0.9 * MEGABYTES
    again = PeakMemory(torch.device("cpu"))
    torch.ones(MEGABYTES * 2**18)
    assert again.megabytes() - small > 0.9 * MEGABYTES
