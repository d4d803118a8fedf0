"""Shared fixtures: small networks and structured images."""

import gc
import os
import sys

# Read when torch is first imported: test processes share few cores, and subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# What one process has compiled, neither the others nor the commands that tests start have to compile again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest
import torch
import torch.nn.functional as F

from small_networks import BRANCHES, SIZE, SmallNet, build, with_bank
from tta_bench.models.networks.unet import UNet
from tta_bench.ops.preprocessing import min_max

sys.dont_write_bytecode = False  # what the environment variable has set in this process
gc.disable()  # modules and tests, of which all stay
# No test outlives a failure of power: none waits for the disk, at which two processes would stand still in turns.
os.fsync = lambda file: None


def pytest_collection_finish():
    """Whatever there is by now, millions of objects, is not searched for garbage again and again by every test."""
    gc.enable()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop():
    """Where tests start programs in forks of this process, they find it as it is before the first test."""
    if "forked" in sys.modules:
        sys.modules["forked"].prepare()


@pytest.fixture(scope="session")
def unet():
    """A library U-Net, float64, without branches. Shared: tests copy it before they change it."""
    return build(UNet, "tu-test_resnet", 2, decoder_channels=(16, 16, 8, 8, 8))


@pytest.fixture(scope="session")
def small_net():
    """A small network with all four branches, float64. Shared: tests copy it before they change it."""
    return with_bank(build(SmallNet, branches=BRANCHES, seed=4))


@pytest.fixture(scope="session")
def images():
    """Twelve different images ``[12, 3, 64, 64]`` in [0, 1], float64: blobs, a disc and a little noise."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(12, 3, 6, 6, generator=generator, dtype=torch.float64)
    blobs = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=False)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    centres = 16 + 32 * torch.rand(12, 2, 1, 1, generator=generator)
    disc = torch.hypot(y - centres[:, 0], x - centres[:, 1]) < 14
    noise = torch.rand(blobs.shape, generator=generator, dtype=torch.float64)
    return min_max(blobs + 0.6 * disc[:, None] + 0.1 * noise)
