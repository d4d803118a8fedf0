"""The device and the arithmetic of training and adaptation alike: the one place that asks for a device's kind."""

from __future__ import annotations

import logging
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch

from tta_bench.errors import UserError
from tta_bench.runtime.files import warn_once
from tta_bench.runtime.precision import Precision
from tta_bench.runtime.ranges import check_device

log = logging.getLogger(__name__)

HOST = torch.device("cpu")

_backends: Any = torch.backends
_deterministic: Any = torch.utils.deterministic

# cuBLAS reads it when it is first used: with one queue of a process its products are the same without, but torch asks.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _settings(products: str) -> tuple[tuple[Any, str, Any], ...]:
    """Torch's settings, in the order in which they are set: the old one of cuDNN overwrites the two after it.

    A CPU asks none of them.

    Args:
        products: how a GPU multiplies numbers of 32 bits: ``ieee`` or ``tf32``, torch's default.
    """
    return (
        (_backends.cudnn, "enabled", True),
        (_backends.cudnn, "benchmark", False),  # chooses another algorithm, and other last digits, in every process
        (_backends.cudnn, "deterministic", True),
        (_backends.cudnn, "allow_tf32", products == "tf32"),
        (_backends.cudnn.conv, "fp32_precision", products),
        (_backends.cudnn.rnn, "fp32_precision", products),
        (_backends.cuda.matmul, "fp32_precision", products),
    )


@contextmanager
def numerics(device: torch.device, precision: Precision = "f32") -> Iterator[None]:
    """Compute on ``device`` in one precision, by cuDNN's deterministic algorithms, whatever was set before.

    Training and adaptation run within it, so that neither depends on what ran before; afterwards, also after an
    exception, torch's settings and its current GPU are as they were.

    Args:
        device: where the tensors are.
        precision: of products of 32 bits; a network computes in bfloat16 where :func:`in_precision` says so.
    """
    settings = _settings("tf32" if precision == "tf32" else "ieee")
    before = [(owner, name, _present(owner, name)) for owner, name, _ in settings]
    current = torch.cuda.device(device) if is_gpu(device) else nullcontext()
    with current, _reproducible(device), torch.autocast(device.type, enabled=False):
        try:
            _set(settings)
            yield
        finally:
            _set(before)


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """Let a GPU add in the same order every time, wherever torch has a kernel that does; elsewhere all are such."""
    if not is_gpu(device):
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = _deterministic.fill_uninitialized_memory
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
    torch.use_deterministic_algorithms(True, warn_only=True)
    _deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        _deterministic.fill_uninitialized_memory = filled


def _present(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except RuntimeError:  # torch cannot say: it was set both in the old way and in the new
        return None


def _set(settings: Iterable[tuple[Any, str, Any]]) -> None:
    for owner, name, value in settings:
        if value is not None:
            setattr(owner, name, value)


def activation_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What a network's activations are kept in: bfloat16 where that is asked for and the device computes in it.

    A device without instructions for bfloat16 is told of, and computes in float32.
    """
    if precision == "tf32" and not is_gpu(device):
        warn_once(log, "precision=tf32 is of a GPU: this CPU computes in float32")
    if precision != "bf16":
        return torch.float32
    if has_bfloat16(device):
        return torch.bfloat16
    kind = device.type.upper()
    warn_once(log, f"precision=bf16, but this {kind} does not compute in bfloat16: float32 is used")
    return torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; without them it is slower than float32."""
    if is_gpu(device):
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def in_precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Within it and :func:`numerics` a network multiplies in ``dtype``, by torch's rules of mixed precision."""
    # Autocast empties its cache of weights where the outermost one ends, which here is that of numerics.
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype, cache_enabled=False)


def resolve_device(name: str) -> torch.device:
    """The device for ``device=auto|cpu|cuda|cuda:N``; ``auto`` takes the GPU where there is one.

    Raises:
        UserError: an unknown name, or a GPU that this machine does not have.
    """
    check_device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return HOST
    if not count:
        raise UserError(f"device={name}, but PyTorch finds no usable GPU: use device=cpu or device=auto")
    number = re.sub(r"\D", "", name)
    if number and int(number) >= count:
        present = ", ".join(f"cuda:{each}" for each in range(count))
        raise UserError(f"device={name}, but this machine has no such GPU: choose one of {present}")
    return torch.device(f"cuda:{int(number)}" if number else "cuda")


def is_gpu(device: torch.device) -> bool:
    """Whether a device is a GPU, which has a memory and a queue of its own."""
    return device.type == "cuda"


def device_name(device: torch.device) -> str:
    """What the hardware is called."""
    return torch.cuda.get_device_name(device) if is_gpu(device) else platform.machine()


def stopwatch(device: torch.device) -> Callable[[], Callable[[], float]]:
    """Begin to time what the device is given from now on, without waiting for it.

    Returns:
        A function that ends this, and returns another one, which says the seconds that the device took; it waits for
        the end, in whichever thread.
    """
    if not is_gpu(device):
        begin = time.perf_counter()

        def stopped() -> Callable[[], float]:
            seconds = time.perf_counter() - begin
            return lambda: seconds

        return stopped
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    queue = torch.cuda.current_stream(device)
    first.record(queue)

    def ended() -> Callable[[], float]:
        last.record(queue)
        return seconds

    def seconds() -> float:
        last.synchronize()
        return first.elapsed_time(last) / 1e3

    return ended


@dataclass(frozen=True)
class Placement:
    """Which of several ways to the same result a kind of device takes, because there it is the fast one.

    Attributes:
        channels_as_groups: normalises by group norm with one channel per group instead of batch norm.
        measures_twice: adds up a map for its mean, and again for its variance, instead of moving both along.
        composed: computes a max pooling and a transposed convolution as several simpler operations.
        image_by_image: convolves one image at a time where the rounding of its convolutions depends on how many there
            are.
        images_at_128: how many images of 128 x 128 pixels share a pass without gradients, others in proportion to
            their area; None for all there are.
        streams_at_128: how many streams of such images share a batch, in the same way; None for as many as fit into its
            memory.
        side_by_side: works on many small batches no faster than on a large one.
        channels_last: keeps the channels of a pixel next to each other in memory.
        varied_channels_last_from: pixels of an image from which it does so although weights of convolutions vary, which
            are laid out anew at every pass; None for never: ``vmap`` knows no other layout.
        laid_out: computes the gradient of a frozen convolution by another one, with weights laid out once.
        packed: lays weights out as the library of a CPU wants them.
        one_kernel: normalises each image by its own statistics in kernels of our own.
        folded: predicts with the source model by convolutions that its normalisation is folded into.
        repeats: upsamples to the nearest pixel by repeating pixels.
    """

    channels_as_groups: bool
    measures_twice: bool
    composed: bool
    image_by_image: bool
    images_at_128: float | None
    streams_at_128: float | None
    side_by_side: bool
    channels_last: bool = False
    varied_channels_last_from: int | None = None
    laid_out: bool = False
    packed: bool = False
    one_kernel: bool = False
    folded: bool = False
    repeats: bool = False

    def images_per_pass(self, pixels: int) -> int | None:
        """How many images of so many pixels share a pass without gradients; None for all."""
        return _in_proportion(self.images_at_128, pixels)

    def streams_per_batch(self, pixels: int) -> int | None:
        """How many streams share a batch that takes so many pixels of each; None for as many as fit."""
        return _in_proportion(self.streams_at_128, pixels)


def _in_proportion(at_128: float | None, pixels: int) -> int | None:
    return None if at_128 is None else max(1, round(at_128 * 128**2 / pixels))


_CPU = Placement(
    channels_as_groups=True,
    measures_twice=True,
    composed=True,
    image_by_image=True,
    images_at_128=6,
    streams_at_128=4,
    side_by_side=False,
    channels_last=True,
    varied_channels_last_from=512**2,
    laid_out=torch.backends.mkldnn.is_available(),
    packed=torch.backends.mkldnn.is_available(),
    folded=torch.backends.mkldnn.is_available(),
)
_ELSEWHERE = Placement(
    channels_as_groups=False,
    measures_twice=False,
    composed=False,
    image_by_image=False,
    images_at_128=None,
    streams_at_128=None,
    side_by_side=True,
)
_GPU = replace(_ELSEWHERE, laid_out=True, one_kernel=find_spec("triton") is not None, repeats=True)
_PLACEMENTS: dict[tuple[str, Precision], Placement] = {
    # The measurements are in benchmarks/README.md. Small images share a pass, and their streams a batch, which spares
    # calls; the feature maps of large ones do not fit the cache. Plane by plane the kernel of group norm is several
    # times faster.
    ("cpu", "f32"): _CPU,
    ("cpu", "tf32"): _CPU,
    ("cpu", "bf16"): replace(_CPU, varied_channels_last_from=0),
    # The kernels for full 32 bits want maps plane by plane, those of the matrix units pixel by pixel.
    ("cuda", "f32"): _GPU,
    ("cuda", "tf32"): replace(_GPU, channels_last=True),
    ("cuda", "bf16"): replace(_GPU, channels_last=True),
}


def placement(device: torch.device, dtype: torch.dtype = torch.float32, precision: Precision = "f32") -> Placement:
    """The row of the table for a device: a CPU's or a GPU's own, or that of anything else that launches kernels.

    Args:
        device: where the tensors are.
        dtype: of the activations; those of 64 bits are treated as those of 32.
        precision: of products of 32 bits, where that matters.
    """
    kind: Precision = "bf16" if dtype == torch.bfloat16 else "tf32" if precision == "tf32" else "f32"
    return _PLACEMENTS.get((device.type, kind), _ELSEWHERE)
