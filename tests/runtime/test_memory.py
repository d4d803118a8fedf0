import sys

import pytest
import torch

from tta_bench.errors import UserError
from tta_bench.models.networks.unet import UNet
from tta_bench.runtime import memory
from tta_bench.runtime.memory import PeakMemory, keep_freed_memory

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


@pytest.mark.parametrize(("images", "size", "gradients"), [(8, 16384, True), (1, 16384, False), (65536, 512, True)])
def test_a_need_far_beyond_the_memory_is_refused_with_the_estimate(monkeypatch, images, size, gradients):
    monkeypatch.setattr(memory, "total_memory", lambda device: 2**33)
    estimate = images * size**2 * memory.BYTES_PER_PIXEL[gradients] / 2**30
    with pytest.raises(UserError, match=rf"at least {estimate:,.0f} GiB of memory, and this machine has 8.0: lower it"):
        memory.refuse_impossible(images, size, gradients, torch.device("cpu"), "lower it")


@pytest.mark.parametrize("gradients", [True, False])
def test_the_estimate_is_below_what_the_smallest_network_takes(gradients):
    """What is refused could not run: checked where the input, and not the weights, decides the memory."""
    network, size = UNet("resnet18", 2, decoder_channels=(16, 16, 8, 8, 8)).train(gradients), 512
    images = torch.rand(1, 3, size, size)
    with torch.set_grad_enabled(gradients):
        peak = memory.PeakMemory(torch.device("cpu"))
        before = peak.megabytes()
        logits = network(images)
        if gradients:
            logits.sum().backward()
        taken = peak.megabytes() - before
    assert taken * 2**20 > size**2 * memory.BYTES_PER_PIXEL[gradients]


def test_the_memory_of_a_container_is_its_share(monkeypatch, tmp_path):
    machine = memory.total_memory(torch.device("cpu"))
    assert machine > 2**28
    (tmp_path / "limit").write_text("123456789\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (tmp_path / "none", tmp_path / "limit", tmp_path / "absent"))
    assert memory.total_memory(torch.device("cpu")) == 123456789
