"""What a GPU makes of test-time adaptation, in one run of a few minutes.

    PYTHONPATH=src python benchmarks/gpu.py            # on the machine that has the GPU
    PYTHONPATH=src python benchmarks/gpu.py --device cpu --size 64 --streams 1 --images 1   # tries the script out

It needs torch, numpy and segmentation-models-pytorch alone (the plain loop also scipy), and prints: how far every
method is from the CPU on one image; milliseconds per image of GraTa and TENT by streams and precision, beside the
plain loop on the same GPU; what of the card's bandwidth and arithmetic that is; where the time goes; and what the
paper's Table 1 would take. ``--json FILE`` keeps the numbers.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, get_type_hints
from unittest.mock import patch

import torch
import yaml  # comes with segmentation-models-pytorch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tta_bench.methods.base import METHODS, Method
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.placement import place
from tta_bench.ops.draws import ImageKey
from tta_bench.runtime.numerics import HOST, has_bfloat16, numerics, resolve_device
from tta_bench.runtime.precision import Precision

CONF = Path(__file__).resolve().parents[1] / "conf"
TABLE_IMAGES, TABLE_ROWS = 8440, 11
"""Table 1 of the paper: images over all sources and targets, and rows."""
TRIED = ("grata", "tent")
CHECKED = [name for name in METHODS.names() if METHODS.get(name).card.setting == "tta"]
"""Methods that need nothing but the network."""

CHECKED_SIZE = 128
WARM_UP = 3
"""Steps that are not timed: the first as it is, the second, in which passes are recorded, and one more."""

SHOWN = 20
"""Operations of a profile."""

_FREE = ("view", "expand", "transpose", "permute", "slice", "select", "squeeze", "split", "detach", "alias", "empty")


def options_of(name: str) -> Any:
    """The default options of a method, from its YAML without Hydra."""
    values = yaml.safe_load((CONF / "method" / f"{name}.yaml").read_text())
    for entry in values.pop("defaults", []):
        if isinstance(entry, Mapping):
            for where, file in entry.items():
                values[where.partition("@")[2]] = yaml.safe_load((CONF / "shared" / f"{file}.yaml").read_text())
    return _built(METHODS.get(name).Options, {key: _uniform(value) for key, value in values.items()})


def _uniform(value: Any) -> Any:
    """The first of the values of ``${preset:FIRST,SECOND}``, and numbers that YAML 1.1 takes for text."""
    if isinstance(value, str) and (found := re.fullmatch(r"\$\{preset:(\[.*?\]|[^,]*),.*\}", value)):
        value = yaml.safe_load(found[1])
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return tuple(map(_uniform, value)) if isinstance(value, list) else value


def _built(kind: type, values: Mapping[str, Any]) -> Any:
    """A dataclass of options, and those within it."""
    hints, given = get_type_hints(kind), {}
    for each in fields(kind):
        if each.name not in values:
            if each.default is MISSING and each.default_factory is MISSING:
                raise KeyError(f"{kind.__name__} has no {each.name} in its YAML")
            continue
        value = values[each.name]
        nested = hints[each.name]
        given[each.name] = (
            _built(nested, {key: _uniform(inner) for key, inner in value.items()})
            if is_dataclass(nested) and isinstance(nested, type) and isinstance(value, Mapping)
            else value
        )
    return kind(**given)


@cache
def random_network(branches: tuple[str, ...]) -> AdaptableNetwork:
    """The paper's network with these branches, on the CPU."""
    torch.manual_seed(0)
    return AdaptableNetwork(ResUNet(2, branches=branches), branches)


def built(
    name: str, device: torch.device, size: int, streams: int, precision: Precision = "f32", graphs: bool = True
) -> Method:
    """A method on the paper's network with random weights, always the same, and its streams started."""
    kind, options = METHODS.get(name), options_of(name)
    network = copy.deepcopy(random_network(tuple(kind.branches(options))))
    method = kind(place(network, device, size, precision, graphs), options)
    method.start(streams)
    return method


def images_of(count: int, size: int, device: torch.device, seed: int = 1) -> torch.Tensor:
    """Random images ``[count, 3, size, size]`` in [0, 1], the same on every device."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)).to(device)


def keys_of(streams: int, index: int) -> list[ImageKey]:
    """The names of one image of each stream, on which its random numbers depend."""
    return [ImageKey(0, f"stream {stream}", f"image {index}") for stream in range(streams)]


def differences(name: str, device: torch.device, size: int) -> tuple[float, float]:
    """Largest difference of the logits of one image by the largest: to those on the CPU; and of these to 64 bits.

    The second says how much of the first is rounding: Adam's first steps are signs, also of gradients that are near 0.
    """
    exact, here, there = (
        _first_logits(name, *where, size)
        for where in ((HOST, torch.float64), (HOST, torch.float32), (device, torch.float32))
    )
    return _relative(there, here), _relative(here, exact)


def _first_logits(name: str, device: torch.device, dtype: torch.dtype, size: int) -> torch.Tensor:
    method = built(name, device, size, 1)
    if dtype == torch.float64:
        method.network.double()
        method.start(1)
    with numerics(device):
        return method.step(images_of(1, size, device).to(dtype), keys_of(1, 0)).logits.double().cpu()


def _relative(value: torch.Tensor, expected: torch.Tensor) -> float:
    return float((value - expected).abs().max() / expected.abs().max())


def replayed(name: str, device: torch.device, size: int) -> float:
    """Largest difference of four steps with CUDA graphs to those without, both on the device: 0 if they are equal."""
    logits = []
    for graphs in (False, True):
        method = built(name, device, size, 2, graphs=graphs)
        with numerics(device):
            steps = [method.step(images_of(2, size, device, k), keys_of(2, k)).logits for k in range(4)]
        logits.append(torch.stack(steps))
    return float((logits[0] - logits[1]).abs().max() / logits[0].abs().max())


def timed(
    name: str, device: torch.device, size: int, streams: int, precision: Precision, images: int, graphs: bool = True
) -> tuple[float, Method]:
    """Milliseconds per image (median over steps, divided by the streams) and the method."""
    method = built(name, device, size, streams, precision, graphs)
    seconds = []
    with numerics(device, precision):
        for index in range(images + WARM_UP):
            batch = images_of(streams, size, device, index)
            seconds.append(method.step(batch, keys_of(streams, index)).seconds)
    return 1e3 * median(seconds[WARM_UP:]), method


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was given; for ``--device cpu`` there is nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed_plain(device: torch.device, size: int, images: int) -> float:
    """Milliseconds per image of the published procedure, step by step."""
    import numpy as np

    from plain_loops import PlainGraTa, PlainResUNet

    torch.manual_seed(0)
    np.random.seed(0)
    loop, seconds = PlainGraTa(PlainResUNet(classes=2).to(device)), []
    for index in range(images + 2):
        image = images_of(1, size, HOST, index)[0].numpy()
        wait_for(device)
        begin = time.perf_counter()
        loop.step(image)
        wait_for(device)
        seconds.append(time.perf_counter() - begin)
    return 1e3 * median(seconds[2:])


class Work(TorchDispatchMode):
    """Counts the bytes that kernels read and write if nothing stays in a cache, and floating-point operations."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.flops = 0

    def __enter__(self) -> Work:
        """Count the kernels of Triton, too, which torch does not see."""
        if find_spec("triton") is not None:
            from triton.runtime import JITFunction

            run = JITFunction.run

            def counting(kernel: Any, *args: Any, **kwargs: Any) -> Any:
                self.bytes += sum({each.data_ptr(): each.nbytes for each in args if hasattr(each, "data_ptr")}.values())
                return run(kernel, *args, **kwargs)

            self._counting = patch.object(JITFunction, "run", counting)
            self._counting.start()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        """See the base class."""
        super().__exit__(*exception)
        if find_spec("triton") is not None:
            self._counting.stop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See the class."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        operation = func._overloadpacket
        if not any(view in operation.__name__ for view in _FREE):
            tensors = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, torch.Tensor)]
            self.bytes += sum(each.numel() * each.element_size() for each in tensors)
        if operation in flop_registry:
            self.flops += flop_registry[operation](*args, **kwargs, out_val=out)
        return out


def counted(
    name: str, device: torch.device, size: int, streams: int, precision: Precision = "f32"
) -> tuple[float, float]:
    """Bytes and floating-point operations per image of one step."""
    method = built(name, device, size, streams, precision, graphs=False)
    with numerics(device, precision), Work() as work:
        method.step(images_of(streams, size, device, 99), keys_of(streams, 99))
    return work.bytes / streams, work.flops / streams


def best_rate(work: Callable[[], Any], amount: float, device: torch.device) -> float:
    """Amount per second of the fastest of ten tries."""
    work()
    seconds = []
    for _ in range(10):
        wait_for(device)
        begin = time.perf_counter()
        work()
        wait_for(device)
        seconds.append(time.perf_counter() - begin)
    return amount / min(seconds)


def card_of(device: torch.device, side: int) -> dict[str, float]:
    """Bandwidth and arithmetic of the device, measured: copying, and products of matrices of this side."""
    source = torch.empty(side * side * 16, device=device)
    target = torch.empty_like(source)
    rates = {"bytes/s": best_rate(lambda: target.copy_(source), 8 * source.numel(), device)}
    for precision, dtype in (("f32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        matrix = torch.ones(side, side, device=device, dtype=dtype)
        with numerics(device, precision):  # type: ignore[arg-type]
            rates[f"{precision} FLOP/s"] = best_rate(lambda m=matrix: m @ m, 2 * side**3, device)  # type: ignore[misc]
    return rates


def profile(device: torch.device, size: int, streams: int, precision: Precision) -> list[str]:
    """The operations of a GraTa step that take most of the device's time, and milliseconds per image of all."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    method = built("grata", device, size, streams, precision)
    images = images_of(streams, size, device)
    with numerics(device, precision):
        for index in range(WARM_UP):
            method.step(images, keys_of(streams, index))
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        with profiler(activities=activities) as recorded:
            method.step(images, keys_of(streams, WARM_UP))
    kind = "cuda" if device.type == "cuda" else "cpu"
    key = "self_device_time_total" if kind == "cuda" else "self_cpu_time_total"
    events = [event for event in recorded.key_averages() if event.device_type.name.lower() == kind]
    events.sort(key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events) or 1
    shares = [f"{100 * getattr(e, key) / total:5.1f} %  {e.count:5d} x  {e.key[:120]}" for e in events[:SHOWN]]
    return [f"{total / 1e3 / streams:.2f} ms per image of the device's work", *shares]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description="Correctness and speed of adaptation on a GPU.")
    result.add_argument("--device", default="cuda", help="as device= of a run")
    result.add_argument("--size", type=int, default=512, help="side of the timed images in pixels, a multiple of 32")
    result.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16], help="adapted side by side")
    result.add_argument("--images", type=int, default=8, help="timed steps of each measurement, after two more")
    result.add_argument("--json", type=Path, help="also write all numbers to this file")
    return result


def main() -> None:
    """Measure and print; exit code 1 if a method is further from the CPU than rounding, or another with CUDA graphs."""
    arguments = parser().parse_args()
    device, size = resolve_device(arguments.device), arguments.size
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, ResUNet-34 with random weights, {size} px\n")

    print(f"One image of {CHECKED_SIZE} px, float32: largest difference of the logits, by the largest logit,")
    print("to those on the CPU; of these to 64 bits; and of four steps with CUDA graphs to those without")
    checks: dict[str, dict[str, float]] = {}
    for each in CHECKED:
        to_cpu, to_64_bits = differences(each, device, CHECKED_SIZE)
        checks[each] = {"to the CPU": to_cpu, "of the CPU to 64 bits": to_64_bits}
        if device.type == "cuda":
            checks[each]["replayed"] = replayed(each, device, CHECKED_SIZE)
        print(f"  {each:16s} {'  '.join(f'{value:.1e}' for value in checks[each].values())}")
    wrong = [
        each
        for each, found in checks.items()
        if not found["to the CPU"] < 30 * found["of the CPU to 64 bits"] + 1e-5 or found.get("replayed", 0)
    ]

    try:
        plain = timed_plain(device, size, arguments.images)
    except ImportError:
        plain = float("nan")  # scipy is missing
    print(f"\nMilliseconds per image; the plain loop, in TF32 as torch has it, takes {plain:.2f}")
    precisions: list[Precision] = ["f32", "tf32", "bf16"] if has_bfloat16(device) else ["f32", "tf32"]
    times: dict[str, float] = {}
    for each in TRIED:
        for streams in arguments.streams:
            for precision in precisions:
                for graphs in (True, False) if device.type == "cuda" else (False,):
                    what = f"{each} {streams} {precision}{'' if graphs or device.type != 'cuda' else ' without graphs'}"
                    try:
                        took = times[what] = timed(each, device, size, streams, precision, arguments.images, graphs)[0]
                    except torch.OutOfMemoryError:
                        print(f"  {what}: out of memory")
                        continue
                    ratio = f", the plain loop takes {plain / took:.1f} times that" if each == "grata" else ""
                    print(f"  {what:32s} {took:8.2f}{ratio}")

    fastest = min(arguments.streams, key=lambda streams: times.get(f"grata {streams} f32", float("inf")))
    moved, arithmetic = counted("grata", device, size, fastest)
    moved_16 = counted("grata", device, size, fastest, "bf16")[0]
    card = card_of(device, 4096 if device.type == "cuda" else 512)
    seconds = times[f"grata {fastest} f32"] / 1e3
    print(f"\nGraTa, float32, {fastest} streams: {moved / 1e9:.1f} GB and {arithmetic / 1e9:.0f} GFLOP per image")
    print(f"  bfloat16: {moved_16 / 1e9:.1f} GB")
    print(f"  {moved / seconds / 1e9:8.0f} GB/s of {card['bytes/s'] / 1e9:.0f} measured by copying")
    print(f"  {arithmetic / seconds / 1e9:8.0f} GFLOP/s of {card['f32 FLOP/s'] / 1e9:.0f} measured by a product")

    usual, shares = sorted(arguments.streams)[len(arguments.streams) // 2], {}
    for precision in precisions:
        shares[precision] = profile(device, size, usual, precision)
        print(
            f"\nWhere the time of a GraTa step goes, {usual} streams, {precision}\n  " + "\n  ".join(shares[precision])
        )

    minutes = TABLE_IMAGES * TABLE_ROWS * seconds / 60
    print(f"\nTable 1 of the paper, {TABLE_IMAGES} images x {TABLE_ROWS} rows at GraTa's cost: {minutes:.0f} min")
    if arguments.json:
        numbers = {"device": name, "torch": torch.__version__, "size": size, "largest difference": checks}
        numbers |= {"ms per image": times | {"plain GraTa": plain}, "card": card, "profile": shares}
        numbers |= {"bytes per image": moved, "FLOP per image": arithmetic, "table 1 in minutes": minutes}
        arguments.json.write_text(json.dumps(numbers, indent=1))
    if wrong:
        sys.exit(f"more than rounding from the CPU, or other numbers with CUDA graphs: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
