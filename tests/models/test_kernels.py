"""The kernels of a GPU: their arithmetic by Triton's interpreter, and that they compile for a GPU that is not there."""

import contextlib
import copy
import importlib
import os
import subprocess
import sys

import pytest
import torch

import tta_bench.runtime.numerics as numerics_module
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.upsampled import Upsampled
from tta_bench.runtime.numerics import _GPU

pytest.importorskip("triton")

KERNELS = "tta_bench.models.kernels"
DEVICE = "tta_bench.models.triton_kernels"
LAYOUTS = {"planes": (torch.contiguous_format, (2, 3, 33, 40)), "pixels": (torch.channels_last, (2, 70, 17, 11))}
"""Order in memory and a shape: as many channels as are cheap for the interpreter, and no multiples of a tile."""

SOME = [  # shift, residual, rectified before and after: each with and without
    (False, False, False, False),
    (True, False, True, False),
    (False, True, False, True),
    (True, True, True, True),
]


def is_of_triton(name):
    """Whether a module is Triton's and no library of C, of which there is one in a process."""
    return name.partition(".")[0] == "triton" and not name.startswith("triton._C")


@pytest.fixture(scope="module")
def kernels():
    """Interpreted, on the CPU, each image in few parts: by a Triton of their own, which asks at its import."""
    before = {name: module for name, module in sys.modules.items() if is_of_triton(name)}
    for name in (*before, KERNELS, DEVICE):
        sys.modules.pop(name, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setattr(torch.cuda, "device_of", lambda x: contextlib.nullcontext())
        made = importlib.import_module(KERNELS)
        patch.setattr(made, "BLOCKS", 6)
        patch.setattr(made, "PARTS", 4)
        yield made
    for name in [each for each in sys.modules if is_of_triton(each)] + [KERNELS, DEVICE]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture(params=[True, False], ids=["whole", "in parts"])
def whole(request, kernels, monkeypatch):
    """Maps are read once, and twice in parts."""
    if not request.param:
        monkeypatch.setattr(kernels, "WHOLE", 0)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-6), (torch.bfloat16, 1e-2)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("what", SOME, ids=str)
def test_a_kernel_and_its_gradients_are_the_formula(kernels, whole, what, layout, dtype, bound):
    shifted, added, before, after = what
    random, (order, shape) = torch.Generator().manual_seed(0), LAYOUTS[layout]
    x, residual, slope = (torch.randn(shape, generator=random).to(dtype) for _ in range(3))
    x = (3 * x + 1).contiguous(memory_format=order)
    weight, bias = torch.rand(shape[:2], generator=random) + 0.5, torch.randn(shape[:2], generator=random)
    shift = torch.randn(shape[1], generator=random).to(dtype) if shifted else None
    arguments = [each.requires_grad_() for each in (x, weight, bias, *([residual] if added else []))]
    made = kernels.standardised(x, weight, bias, 1e-5, shift, residual if added else None, before, after)
    assert made.stride() == x.stride()
    found = made, *torch.autograd.grad(made, arguments, slope)

    exact = [each.detach().double().requires_grad_() for each in arguments]
    taken = exact[0] if shift is None else exact[0] + shift.double()[:, None, None]
    taken = taken.relu() if before else taken
    variance, mean = torch.var_mean(taken, dim=(2, 3), correction=0, keepdim=True)
    normal = (taken - mean) / (variance + 1e-5).sqrt() * exact[1][..., None, None] + exact[2][..., None, None]
    normal = normal + exact[3] if added else normal
    normal = normal.relu() if after else normal
    expected = normal, *torch.autograd.grad(normal, exact, slope.double())
    for each, right in zip(found, expected, strict=True):
        torch.testing.assert_close(each.double(), right, rtol=0, atol=bound * right.abs().max().item())


@pytest.mark.parametrize(
    ("order", "others"),
    [
        (torch.contiguous_format, None),
        (torch.contiguous_format, 5),
        (torch.channels_last, None),
        (torch.channels_last, 70),
    ],
    ids=["planes", "planes and others", "pixels", "pixels and others"],
)
def test_an_upsampled_map_is_read_where_its_parts_lie_and_so_is_its_gradient_written(kernels, whole, order, others):
    random = torch.Generator().manual_seed(0)
    quarters = torch.randn(2, 4 * 6, 9, 5, generator=random)
    parts = [quarters] if others is None else [quarters, torch.randn(2, others, 18, 10, generator=random)]
    parts = [each.contiguous(memory_format=order).requires_grad_() for each in parts]
    channels = Upsampled(*parts).shape[1]
    weight, bias = torch.rand(2, channels, generator=random), torch.randn(2, channels, generator=random)
    shift = torch.randn(channels, generator=random)
    laid_out = Upsampled(*parts).laid_out()
    assert laid_out.shape == Upsampled(*parts).shape
    assert laid_out.is_contiguous(memory_format=order)
    slope = torch.randn(laid_out.shape, generator=random)
    found, expected = (
        (made, *torch.autograd.grad(made, parts, slope))
        for made in (
            kernels.standardised(x, weight, bias, 1e-5, shift, None, True) for x in (Upsampled(*parts), laid_out)
        )
    )
    for each, right in zip(found, expected, strict=True):
        assert each.is_contiguous(memory_format=order)
        torch.testing.assert_close(each, right, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strides", [(21, 7, 1, 999), (21, 1, 3, 999)], ids=["planes", "pixels"])
def test_a_side_of_one_pixel_may_have_any_stride(kernels, whole, strides):
    x = torch.randn(21, generator=torch.Generator().manual_seed(0)).as_strided((1, 3, 7, 1), strides)
    weight = torch.ones(1, 3)
    expected = torch.nn.functional.batch_norm(x.clone(), None, None, training=True)
    torch.testing.assert_close(kernels.standardised(x, weight, 0 * weight, 1e-5), expected)


@pytest.fixture
def on_the_cpu(kernels, monkeypatch):
    """Lets the CPU be a GPU whose maps lie pixel by pixel."""
    here = numerics_module.replace(_GPU, channels_last=True, one_kernel=True)
    return lambda: monkeypatch.setattr(numerics_module, "_PLACEMENTS", {("cpu", "f32"): here})


def test_the_network_of_the_paper_gives_the_same_by_the_kernels(kernels, on_the_cpu, monkeypatch):
    torch.manual_seed(0)
    network = AdaptableNetwork(ResUNet(classes=2))
    network.model.to(memory_format=torch.channels_last)
    images = torch.rand(2, 3, 64, 64)

    def outcome(network, images):
        theta = network.source_theta[None].clone().requires_grad_()
        logits = network(images, theta)
        return [logits.detach(), *torch.autograd.grad(logits.square().mean(), theta)]

    exact = outcome(copy.deepcopy(network).double(), images.double())
    rounded = outcome(network, images)
    on_the_cpu()
    # Fewer tiles than on a GPU, each of which the interpreter goes through line by line; the largest maps in parts.
    sizes = {"WHOLE": 2**15, "CHANNELS_OF_WHOLE": 128, "NUMBERS_PER_TILE": 2**15, "CHANNELS_PER_TILE": 256}
    for name, size in sizes.items():
        monkeypatch.setattr(kernels, name, size)
    launches = []
    for kernel in (kernels.apply, kernels.normalise):
        run = kernel.run
        monkeypatch.setattr(kernel, "run", lambda *args, run=run, **kw: launches.append(kw) or run(*args, **kw))
    for each, other, right in zip(outcome(network, images), rounded, exact, strict=True):
        assert (each - right).norm() < 3 * (other - right).norm()
    flags = ("DOUBLED", "SHIFTED", "BEFORE", "RESIDUAL", "AFTER")
    kinds = {tuple(launch[flag] for flag in flags) for launch in launches}
    assert kinds == {
        (False, False, False, False, False),  # after a convolution alone
        (False, False, False, False, True),  # with the ReLU that follows
        (False, False, False, True, True),  # with a block's shortcut, too
        (True, True, True, False, False),  # with what comes before, in the decoder
        (True, True, False, False, True),  # at its end
    }


COMPILED = """
import itertools
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tta_bench.models import kernels, triton_kernels

MAPS = ("x", "beside", "out", "residual", "gradient", "of_input", "of_beside", "of_residual")
ROWS = ("shift", "parts", "weight", "bias", "found", "of_weight", "of_bias")
NAMES = ("measure", "apply", "measure_gradient", "apply_gradient")
WHOLE = ("normalise", "normalise_gradient")
parted = itertools.product(NAMES, ((64, 64), (1024, 1)), (False, True))
whole = itertools.product(WHOLE, ((kernels.WHOLE // 32, 16), (kernels.WHOLE // 2, 1)), (False, True))
for name, (pixels, channels), doubled in (*parted, *whole):
    kernel = getattr(triton_kernels, name)
    constants = dict.fromkeys(("SHIFTED", "BEFORE", "RESIDUAL", "AFTER"), True) | {"DOUBLED": doubled}
    constants |= {"PARTS": kernels.PARTS, "BLOCK_PIXELS": pixels, "BLOCK_CHANNELS": channels}
    types = {name: "*bf16" for name in MAPS} | {name: "*fp32" for name in ROWS} | {"eps": "fp32"}
    types |= dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    known = {(place,): constants[name] for place, name in enumerate(kernel.arg_names) if name in constants}
    source, target = ASTSource(kernel, signature, known), GPUTarget("cuda", 90, 32)
    made = compile(source, target=target, options={"num_warps": 8 if name in WHOLE else 4})
    print(name, made.asm["cubin"] != b"")
"""


def test_the_kernels_compile_for_a_gpu():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split().count("True") == 24
