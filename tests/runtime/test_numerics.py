import re
from pathlib import Path

import pytest
import torch

import tta_bench
from tta_bench.errors import UserError
from tta_bench.runtime.numerics import numerics, placement, resolve_device

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Lets torch find so many GPUs."""

    def has(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return has


def settings():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    modes = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    return *modes, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision


@pytest.fixture
def careless():
    """Settings of somebody who wants speed, and those of before afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = settings()

    def put(enabled, benchmark, deterministic, conv, rnn, product):
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = enabled, benchmark, deterministic
        cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matmul.fp32_precision = conv, rnn, product

    put(True, True, False, "tf32", "tf32", "tf32")
    yield settings()
    put(*before)


def test_float32_is_float32_within_and_all_is_as_before_afterwards(careless):

    def compute():
        with numerics(CPU):
            assert settings() == (True, False, True, "ieee", "ieee", "ieee")
            assert torch.get_float32_matmul_precision() == "highest"  # asked by Lightning
            with torch.backends.cudnn.flags(enabled=False):  # in a network of anybody
                assert not torch.backends.cudnn.enabled
            raise KeyError

    with pytest.raises(KeyError):
        compute()
    assert settings() == careless


def test_within_another_one_and_after_settings_of_the_old_kind(careless):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    before = settings()
    with numerics(CPU):
        within = settings()
        with numerics(CPU):
            assert settings() == within
        assert settings() == within
    assert settings() == before


def test_a_name_stands_for_a_device_of_the_machine(machine):
    machine(2)
    names = {"auto": "cuda", "cpu": "cpu", "cuda": "cuda", "cuda:0": "cuda:0", "cuda:1": "cuda:1"}
    assert {name: str(resolve_device(name)) for name in names} == names
    machine(0)
    assert resolve_device("auto") == resolve_device("cpu") == CPU


@pytest.mark.parametrize(
    ("name", "gpus", "fault"),
    [
        ("cuda", 0, "device=cuda, but PyTorch finds no usable GPU: use device=cpu or device=auto"),
        ("cuda:1", 0, "device=cuda:1, but PyTorch finds no usable GPU: use device=cpu or device=auto"),
        ("cuda:2", 2, "device=cuda:2, but this machine has no such GPU: choose one of cuda:0, cuda:1"),
        *(
            (name, 2, f"unknown device={name}: choose auto, cpu, cuda or cuda:N, the GPU number N from 0")
            for name in ("cdua", "cuda:", "cuda:-1", "cuda:01", "cuda:x", "cpu:0", "mps", "")
        ),
    ],
)
def test_other_names_are_refused(machine, name, gpus, fault):
    machine(gpus)
    with pytest.raises(UserError, match=f"^{re.escape(fault)}$"):
        resolve_device(name)


def test_small_images_share_a_pass_on_a_cpu_and_all_do_elsewhere():
    assert [placement(CPU).images_per_pass(size**2) for size in (64, 128, 512)] == [24, 6, 1]
    assert placement(torch.device("cuda:1")).images_per_pass(512) is None
    assert [placement(CPU).streams_per_batch(size**2) for size in (64, 96, 128, 192, 224, 512)] == [16, 7, 4, 2, 1, 1]
    assert placement(torch.device("cuda:1")).streams_per_batch(512**2) is None


def test_no_other_room_asks_for_the_kind_of_a_device():
    """A kernel is chosen by the table of placements."""
    root = Path(tta_bench.__file__).parent
    asked = {str(path.relative_to(root)) for path in root.rglob("*.py") if re.search(KINDS, path.read_text())}
    assert asked == {"runtime/numerics.py", "models/probe.py"}  # that asks whether a device has float64


KINDS = r"\.is_(cuda|cpu|mps)\b|device\.type\b|torch\.backends|torch\.device\(\"cuda"
