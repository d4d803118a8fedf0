"""The device and the arithmetic of training and adaptation alike: the one place that asks for a device's kind."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from tta_bench.errors import UserError
from tta_bench.runtime.ranges import check_device

HOST = torch.device("cpu")

_backends: Any = torch.backends
_FLOAT32: tuple[tuple[Any, str, Any], ...] = (
    (_backends.cudnn, "enabled", True),
    (_backends.cudnn, "benchmark", False),  # chooses another algorithm, and other last digits, in every process
    (_backends.cudnn, "deterministic", True),
    (_backends.cudnn, "allow_tf32", False),  # TF32 is torch's default, and keeps 10 of 23 bits
    (_backends.cudnn.conv, "fp32_precision", "ieee"),
    (_backends.cudnn.rnn, "fp32_precision", "ieee"),
    (_backends.cuda.matmul, "fp32_precision", "ieee"),
)
"""Torch's settings in float32, the precision of every run, in the order in which they are set: the old one of cuDNN
overwrites the two after it. A CPU asks none of them."""


@contextmanager
def numerics(device: torch.device) -> Iterator[None]:
    """Compute on ``device`` in float32 that is float32, by cuDNN's deterministic algorithms, whatever was set before.

    Training and adaptation run within it, so that neither depends on what ran before; afterwards, also after an
    exception, torch's settings and its current GPU are as they were.

    Args:
        device: where the tensors are.
    """
    before = [(owner, name, _present(owner, name)) for owner, name, _ in _FLOAT32]
    current = torch.cuda.device(device) if is_gpu(device) else nullcontext()
    with current, torch.autocast(device.type, enabled=False):
        try:
            _set(_FLOAT32)
            yield
        finally:
            _set(before)


def forward_precision(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Within it, and within :func:`numerics`, a forward pass multiplies in this precision.

    Args:
        device: where the tensors are.
        precision: ``f32``, or ``bf16``: convolutions and matrix products in bfloat16, with float32 weights, and what
            torch's autocast keeps in float32 there.
    """
    if precision != "bf16":
        return nullcontext()
    # Autocast empties its cache of bfloat16 weights where the outermost one ends, which here is that of numerics.
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


def _present(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except RuntimeError:  # torch cannot say: it was set both in the old way and in the new
        return None


def _set(settings: Iterable[tuple[Any, str, Any]]) -> None:
    for owner, name, value in settings:
        if value is not None:
            setattr(owner, name, value)


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


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if is_gpu(device):
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Placement:
    """Which of several ways to the same result a kind of device takes, because there it is the fast one.

    Attributes:
        channels_as_groups: normalises by group norm with one channel per group instead of batch norm.
        composed: computes a max pooling and a transposed convolution as several simpler operations.
        image_by_image: convolves one image at a time where the rounding of its convolutions depends on how many there
            are.
        images_at_128: how many images of 128 x 128 pixels share a pass without gradients, others in proportion to
            their area; None for all there are.
        side_by_side: works on several streams in less time than on one after the other.
    """

    channels_as_groups: bool
    composed: bool
    image_by_image: bool
    images_at_128: float | None
    side_by_side: bool

    def images_per_pass(self, pixels: int) -> int | None:
        """How many images of so many pixels share a pass without gradients; None for all."""
        return None if self.images_at_128 is None else max(1, round(self.images_at_128 * 128**2 / pixels))


_PLACEMENTS = {
    # Small images share a pass, because the weights are laid out anew at each; the feature maps of large ones do not
    # fit the cache. The kernel of group norm is several times faster.
    "cpu": Placement(channels_as_groups=True, composed=True, image_by_image=True, images_at_128=6, side_by_side=False)
}
_ELSEWHERE = Placement(
    channels_as_groups=False, composed=False, image_by_image=False, images_at_128=None, side_by_side=True
)


def placement(device: torch.device) -> Placement:
    """The row of the table for a device: a CPU's own, or that of anything that launches kernels."""
    return _PLACEMENTS.get(device.type, _ELSEWHERE)
