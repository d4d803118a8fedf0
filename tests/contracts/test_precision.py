"""Laws of ``precision=bf16`` for every method: it moves the numbers by rounding, and nothing else."""

import copy

import pytest
import torch
from settings import options_of

from tta_bench.methods.base import METHODS, Protocol
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.placement import place
from tta_bench.ops.draws import ImageKey
from tta_bench.runtime import numerics as rooms
from tta_bench.runtime.files import warn_once
from tta_bench.runtime.numerics import activation_dtype, has_bfloat16, numerics

CPU = torch.device("cpu")


@pytest.fixture
def bfloat16(monkeypatch):
    """A CPU that is taken to have bfloat16 arithmetic: torch computes in it on any, slowly on most."""
    monkeypatch.setattr(rooms, "has_bfloat16", lambda device: True)


def adapted(name, small_net, images, precision, streams=2):
    """The method after two images of each stream, and the logits of the second."""
    branches = METHODS.get(name).branches(options_of(name))
    images = images.float()
    network = place(AdaptableNetwork(copy.deepcopy(small_net).float(), branches), CPU, images.shape[-1], precision)
    method = METHODS.get(name)(network, options_of(name), Protocol())
    method.start(streams)
    with numerics(CPU, precision):
        for index in range(2):
            keys = [ImageKey(0, f"stream {stream}", str(index)) for stream in range(streams)]
            result = method.step(images[index * streams : (index + 1) * streams], keys)
    return method, result


@pytest.mark.parametrize("name", METHODS.names())
def test_bfloat16_rounds_activations_and_keeps_the_state_in_float32(name, small_net, images, bfloat16):
    _, expected = adapted(name, small_net, images, "f32")
    method, result = adapted(name, small_net, images, "bf16")
    assert result.logits.dtype == torch.float32
    assert method.theta(2).dtype == torch.float32
    assert all(value.dtype != torch.bfloat16 for value in method.state_dict().values() if torch.is_tensor(value))
    assert method.skipped == 0
    assert torch.isfinite(result.logits).all()
    rounded = (result.logits - expected.logits).abs().max() / expected.logits.abs().max()
    assert 0 < rounded < 0.2


def test_the_source_model_stays_as_it_is(small_net, images, bfloat16):
    before = {name: value.clone() for name, value in small_net.state_dict().items()}
    adapted("tent", small_net, images, "bf16")
    assert all(torch.equal(value, before[name]) for name, value in small_net.state_dict().items())


def test_without_such_arithmetic_it_is_said_and_float32_used(monkeypatch, caplog):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    warn_once.cache_clear()
    assert not has_bfloat16(CPU)
    assert activation_dtype("bf16", CPU) == torch.float32
    assert "precision=bf16, but this CPU does not compute in bfloat16: float32 is used" in caplog.text


def test_tf32_is_of_a_gpu_alone(small_net, images, caplog):
    warn_once.cache_clear()
    assert activation_dtype("tf32", CPU) == torch.float32
    assert "precision=tf32 is of a GPU: this CPU computes in float32" in caplog.text
    (_, one), (_, other) = (adapted("grata", small_net, images, precision) for precision in ("f32", "tf32"))
    assert torch.equal(one.logits, other.logits)
    with numerics(CPU, "tf32"):
        assert torch.backends.cuda.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision != "tf32" or torch.backends.cudnn.conv.fp32_precision != "tf32"
