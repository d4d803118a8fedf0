"""What a GPU waits for within a step: its timeline from the first kernel to the last, and the host's part of it.

    PYTHONPATH=src python benchmarks/gpu_step.py                # four streams of 512 px in bfloat16, GraTa and TENT
    PYTHONPATH=src python benchmarks/gpu_step.py --device cpu --size 64 --streams 1 --methods tent   # tries it out

For every method and number of streams it prints milliseconds per image, once with random numbers that are drawn ahead
as in a run, once with those that are drawn within the step; how long the host takes to submit a step; and of one step
how long the device worked and stood still, in gaps of which length, with what was before and after the longest.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from gpu import WARM_UP, built, images_of, keys_of, wait_for
from tta_bench.data.prefetching import Prefetcher
from tta_bench.methods.base import Method
from tta_bench.ops.draws import ImageKey
from tta_bench.runtime.numerics import numerics, resolve_device
from tta_bench.runtime.precision import Precision

BOUNDS = (2, 10, 100)
"""Microseconds that part the gaps: between kernels of a graph, between submitted ones, and while the host is busy."""


def timed(
    method: Method, device: torch.device, size: int, streams: int, steps: int, keys: Callable[[int], Sequence[ImageKey]]
) -> tuple[float, float]:
    """Milliseconds per image of the device, and per step of the host: medians."""
    taken, submitted = [], []
    for index in range(steps + WARM_UP):
        images, named = images_of(streams, size, device, index), keys(index)
        wait_for(device)
        begin = time.perf_counter()
        result = method.step(images, named)
        submitted.append(time.perf_counter() - begin)
        taken.append(result.seconds)
    return 1e3 * median(taken[WARM_UP:]), 1e3 * median(submitted[WARM_UP:])


def timeline(work: Callable[[], Any], device: torch.device) -> list[tuple[float, float, str]]:
    """Begin and end in microseconds and name of all that the device does, in order."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profiler(activities=activities) as recorded:
        work()
        wait_for(device)
    kind = "CUDA" if device.type == "cuda" else "CPU"
    events = [event for event in recorded.events() if event.device_type.name == kind]
    return sorted((event.time_range.start, event.time_range.end, event.name) for event in events)


def told(events: Sequence[tuple[float, float, str]]) -> list[str]:
    """How long the device worked and stood still."""
    end, before, gaps = events[0][0], "the beginning", []
    for start, stop, name in events:
        if start > end:
            gaps.append((start - end, before, name))
        if stop > end:
            end, before = stop, name
    idle, span = sum(gap for gap, *_ in gaps), end - events[0][0]
    lines = [
        f"{len(events)} kernels and copies in {span / 1e3:.2f} ms, of which the device stood still {idle / 1e3:.2f}"
    ]
    for low, high in zip((0, *BOUNDS), (*BOUNDS, float("inf")), strict=True):
        within = [gap for gap, *_ in gaps if low <= gap < high]
        lines.append(f"  gaps of {low} to {high} us: {len(within)}, {sum(within) / 1e3:.2f} ms")
    longest = sorted(gaps, reverse=True)[:8]
    return lines + [f"  {gap:7.1f} us between {first[:50]} and {second[:50]}" for gap, first, second in longest]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a GPU waits for within a step.")
    parser.add_argument("--device", default="cuda", help="as device= of a run")
    parser.add_argument("--size", type=int, default=512, help="side of the images in pixels, a multiple of 32")
    parser.add_argument("--streams", type=int, nargs="+", default=[4], help="adapted side by side")
    parser.add_argument("--precision", default="bf16", choices=("f32", "tf32", "bf16"), help="of the network")
    parser.add_argument("--methods", nargs="+", default=["grata", "tent"], help="to try")
    parser.add_argument("--steps", type=int, default=12, help="that are timed, of each")
    arguments = parser.parse_args()
    device, size = resolve_device(arguments.device), arguments.size
    precision: Precision = arguments.precision
    for name in arguments.methods:
        for streams in arguments.streams:
            method = built(name, device, size, streams, precision)
            with numerics(device, precision), Prefetcher() as ahead:

                def drawn(index: int, streams: int = streams, ahead: Prefetcher = ahead) -> Sequence[ImageKey]:
                    keys = ahead.begin(keys_of(streams, index))
                    keys.settle()
                    return keys

                def within(index: int, streams: int = streams) -> Sequence[ImageKey]:
                    return keys_of(streams, index)

                for what, keys in (("drawn ahead", drawn), ("drawn within the step", within)):
                    took, host = timed(method, device, size, streams, arguments.steps, keys)
                    print(
                        f"{name}, {streams} streams, {precision}, {what}: {took:.2f} ms per image, host {host:.2f} ms"
                    )
                images, named = images_of(streams, size, device), drawn(99)
                wait_for(device)
                print("\n".join(told(timeline(lambda m=method, i=images, n=named: m.step(i, n), device))))  # type: ignore[misc]


if __name__ == "__main__":
    main()
