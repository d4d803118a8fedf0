import pytest
import torch

from tta_bench.runtime.transfer import fetched, pinned, sent

on_a_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_what_goes_there_and_back_is_the_same_and_the_host_waits_for_its_return_alone():
    device, values = torch.device("cuda"), torch.randn(4, 512, 512)
    torch.zeros(1, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = [sent(part, device) for part in (values, values[:, ::2], pinned(values).half())]
        back = [fetched(part + 1) for part in there]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for part, fetch, expected in zip(there, back, (values, values[:, ::2], values.half()), strict=True):
        assert part.device.type == "cuda"
        assert torch.equal(fetch(), expected + 1)
        assert fetch().device.type == "cpu"


def test_on_the_host_nothing_is_copied():
    values = torch.randn(3)
    assert sent(values, values.device) is fetched(values)() is pinned(values) is values
