"""What the weights of a state dict must be, seen without the network's memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tta_bench.runtime.numerics import HOST

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""What may stand for float32."""

_FAULTS_SHOWN = 8


def some(items: Sequence[str]) -> str:
    """The first few of a list, and how many more there are."""
    shown = ", ".join(items[:_FAULTS_SHOWN])
    return shown if len(items) <= _FAULTS_SHOWN else f"{shown} and {len(items) - _FAULTS_SHOWN} more"


def state_faults(state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> list[str]:
    """Missing and unexpected keys, wrong shapes and types, one sentence for each kind; no value is looked at."""
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    both = [key for key in expected if key in state]
    odd = {key: fault for key in both if (fault := _oddity(state[key])) is not None}
    shapes = [
        f"{key} {list(state[key].shape)} instead of {list(expected[key].shape)}"
        for key in both
        if key not in odd and state[key].shape != expected[key].shape
    ]
    types = [
        f"{key} {_name(state[key].dtype)} instead of {_name(expected[key].dtype)}"
        for key in both
        if key not in odd and not _stands_for(state[key].dtype, expected[key].dtype)
    ]
    kinds = (
        ("missing weights", missing),
        ("unexpected weights", unexpected),
        ("other things than plain tensors", [f"{key} ({fault})" for key, fault in odd.items()]),
        ("wrong shapes", shapes),
        ("wrong types", types),
    )
    return [f"{kind}: {some([str(key) for key in keys])}" for kind, keys in kinds if keys]


def value_faults(state: Mapping[str, Tensor]) -> list[str]:
    """Values with which a network cannot work; of tensors that have passed :func:`state_faults`."""
    floating = [key for key, value in state.items() if value.is_floating_point()]
    # As float32, which a network computes in: a larger float64 becomes infinite there.
    broken = [key for key in floating if not torch.isfinite(state[key].float()).all()]
    negative = [key for key, value in state.items() if _is_never_negative(key) and (value < 0).any()]
    return [
        f"{fault} in {some(keys)}"
        for fault, keys in (
            ("weights that are not finite (NaN or infinity)", broken),
            ("negative variances or counts", negative),
        )
        if keys
    ]


def shapes_of(build: Callable[[], torch.nn.Module]) -> dict[str, Tensor]:
    """The state dict of a network without its memory: every tensor is on the device ``meta``."""
    with torch.random.fork_rng(devices=[]), _OnMeta():
        network = build()
    return {key: value.to("meta") for key, value in network.state_dict().items()}


class Unfilled(TorchFunctionMode):
    """Leaves the parameters of layers that are built within as the memory is: a state dict will overwrite them all."""

    _RANDOM = frozenset({"uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_", "erfinv_"})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        filled = args[0] if args else (kwargs or {}).get("tensor")
        if func.__name__ in self._RANDOM and isinstance(filled, torch.nn.Parameter):
            return filled
        return func(*args, **(kwargs or {}))


class _OnMeta(TorchFunctionMode):
    """Puts the parameters of layers on ``meta``; what some networks calculate on the way, as rates, stays real.

    Initial values, which such a parameter cannot have, are not computed.
    """

    _FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._FACTORIES:
            kwargs = {**(kwargs or {}), "device": "meta"}
        in_place = func.__name__.endswith("_") and not func.__name__.endswith("__")  # as normal_
        if in_place and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def _oddity(value: Any) -> str | None:
    """Why something is no plain tensor in memory."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.layout != torch.strided:
        return _name(value.layout)
    if value.is_quantized:
        return "quantised"
    if value.device != HOST:
        return f"on the device {value.device}"
    repeats = any(stride == 0 and size > 1 for size, stride in zip(value.shape, value.stride(), strict=True))
    if repeats or value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return "repeated memory"
    return None


def _stands_for(dtype: torch.dtype, expected: torch.dtype) -> bool:
    return dtype == expected or (expected == torch.float32 and dtype in FLOATS)


def _is_never_negative(key: str) -> bool:
    return key.endswith(("running_var", "num_batches_tracked"))


def _name(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")
