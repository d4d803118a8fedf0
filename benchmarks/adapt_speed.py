"""Time and memory of test-time adaptation, as ratios to a plain loop in the same run; see ``README.md`` beside this.

Every measurement runs in a process of its own: ``--task`` is how this script calls itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

PLAIN = "plain GraTa"
"""The loop in ``plain_grata.py``; every other name is a registered method."""


@dataclass(frozen=True)
class Task:
    """One measurement in a process of its own.

    Attributes:
        method: a registered method or :data:`PLAIN`.
        size: side of the image in pixels.
        images: timed images of each stream.
        warmup: images before them.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: of torch; None for its default.
        streams: adapted side by side; the plain loop has one.
    """

    method: str
    size: int
    images: int
    warmup: int
    device: str
    threads: int | None
    streams: int


@dataclass(frozen=True)
class Measurement:
    """What a process reports.

    Attributes:
        milliseconds: per image, the median over the timed images.
        forwards: images through the network per adapted image.
        backwards: backward passes per adapted image of a stream.
        peak_mib: peak memory of the process, or of the GPU if there is one.
        device: its name.
        threads: of torch.
        torch: its version.
    """

    milliseconds: float
    forwards: float
    backwards: float
    peak_mib: float
    device: str
    threads: int
    torch: str


def measure(task: Task) -> Measurement:
    """Carry out a task in this process, which has not imported torch yet."""
    if task.method != PLAIN:
        import tta_bench.__main__  # noqa: F401 -- sets the environment of the product, which torch reads on import
    import torch

    from tta_bench.runtime.memory import PeakMemory, keep_freed_memory
    from tta_bench.runtime.numerics import numerics, resolve_device

    if task.method != PLAIN:
        keep_freed_memory()
    if task.threads is not None:
        torch.set_num_threads(task.threads)
    random.seed(0)
    torch.manual_seed(0)
    device = resolve_device(task.device)
    memory = PeakMemory(device)
    timed = time_plain_loop if task.method == PLAIN else time_method
    with numerics(device):
        seconds, forwards, backwards = timed(task, device)
    return Measurement(
        1e3 * statistics.median(seconds[task.warmup :]),
        forwards / len(seconds),
        backwards / len(seconds),
        memory.megabytes(),
        torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        torch.get_num_threads(),
        torch.__version__,
    )


def time_plain_loop(task: Task, device: Any) -> tuple[list[float], int, int]:
    """Seconds of each image, number of forwards and of backwards."""
    import numpy as np
    import torch

    from plain_grata import PlainGraTa, PlainResUNet

    np.random.seed(0)
    loop = PlainGraTa(PlainResUNet(classes=2).to(device))
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    seconds = []
    for _ in range(task.warmup + task.images):
        image = torch.rand(3, task.size, task.size).numpy()
        wait()
        begin = time.perf_counter()
        loop.step(image)
        wait()
        seconds.append(time.perf_counter() - begin)
    return seconds, loop.forwards, loop.backwards


def time_method(task: Task, device: Any) -> tuple[list[float], int, int]:
    """Seconds of each image, number of forwards and of backwards."""
    import torch

    from tta_bench.methods.base import METHODS
    from tta_bench.models.adaptable import AdaptableNetwork
    from tta_bench.models.networks.resunet34 import ResUNet
    from tta_bench.models.placement import place
    from tta_bench.ops.draws import ImageKey

    network = place(AdaptableNetwork(ResUNet(classes=2)), device, task.size)
    method = METHODS.get(task.method)(network)
    method.start(task.streams)
    seconds = []
    for index in range(task.warmup + task.images):
        images = torch.rand(task.streams, 3, task.size, task.size).to(device)
        keys = [ImageKey(0, f"stream {stream}", f"image {index}") for stream in range(task.streams)]
        seconds.append(method.step(images, keys).seconds)
    return seconds, network.forwards, method.backwards


def run_task(task: Task) -> Measurement:
    """Carry out a task in a fresh process; ends this one with the same exit code if it fails."""
    command = [sys.executable, str(Path(__file__).resolve()), "--task", json.dumps(asdict(task))]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        print(f"{task.method} at {task.size} px failed", file=sys.stderr)
        sys.exit(process.returncode)
    return Measurement(**json.loads(process.stdout.splitlines()[-1]))


def compare(task: Task, methods: list[str], repeat: int) -> list[tuple[str, list[Measurement]]]:
    """Measure the plain loop and each method ``repeat`` times in turns, so that drift of the machine hits them alike.

    Returns:
        Per name its measurements; the k-th of each belong to the same turn.
    """
    rows: dict[str, list[Measurement]] = {name: [] for name in (PLAIN, *methods)}
    for turn in range(repeat):
        for name, measurements in rows.items():
            print(f"{task.size} px, turn {turn + 1} of {repeat}: {name}", file=sys.stderr)
            measurements.append(run_task(replace(task, method=name)))
    return list(rows.items())


def table_row(name: str, size: int, measurements: list[Measurement], plain: list[Measurement]) -> str:
    """One line of the Markdown table."""
    ratio = statistics.median(
        own.milliseconds / reference.milliseconds for own, reference in zip(measurements, plain, strict=True)
    )
    milliseconds = statistics.median(m.milliseconds for m in measurements)
    last = measurements[-1]
    peak = max(m.peak_mib for m in measurements)
    cells = (name, size, last.device, f"{milliseconds:.1f}", f"{last.forwards:g}", f"{last.backwards:g}")
    return f"| {' | '.join(map(str, cells))} | {peak:.0f} | {ratio:.3f} |"


def processor() -> str:
    """The model of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def at_least(minimum: int) -> Callable[[str], int]:
    """A parser of whole numbers from ``minimum``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {minimum}")
        return int(text)

    return parse


def image_side(text: str) -> int:
    """A multiple of 32 from 64: the encoder halves the image five times."""
    if not text.isdecimal() or int(text) < 64 or int(text) % 32:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 32 from 64")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description="Time and memory of adaptation, as ratios to a plain GraTa loop.")
    result.add_argument("--sizes", type=image_side, nargs="+", default=[128, 256, 512], help="image sides in pixels")
    result.add_argument("--methods", nargs="+", default=["no_adapt", "bn_only", "tent", "grata"])
    result.add_argument("--images", type=at_least(1), default=5, help="timed images per process (and stream)")
    result.add_argument("--warmup", type=at_least(0), default=1, help="images before them")
    result.add_argument("--repeat", type=at_least(1), default=3, help="turns of plain loop and methods")
    result.add_argument("--device", default="auto", help="as device= of a run")
    result.add_argument("--threads", type=at_least(1), help="of torch, in every process; default: torch's own choice")
    result.add_argument(
        "--streams", type=at_least(1), default=1, help="adapted side by side by a method, to fill a GPU"
    )
    result.add_argument("--task", help=argparse.SUPPRESS)
    return result


def main() -> None:
    """Measure and print."""
    arguments = parser().parse_args()
    if arguments.task:
        from tta_bench.errors import UserError

        try:
            print(json.dumps(asdict(measure(Task(**json.loads(arguments.task))))))
        except UserError as error:
            sys.exit(f"error: {error}")
        return
    for position, size in enumerate(arguments.sizes):
        task = Task(
            PLAIN, size, arguments.images, arguments.warmup, arguments.device, arguments.threads, arguments.streams
        )
        rows = compare(task, arguments.methods, arguments.repeat)
        if position == 0:
            first = rows[0][1][0]
            cores = f"{processor()}, {os.cpu_count()} cores, {first.threads} threads"
            print(f"{cores}, torch {first.torch}, streams side by side: {task.streams}\n")
            print("| method | size | device | ms per image | forwards | backwards | peak MiB | time / plain GraTa |")
            print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for name, measurements in rows:
            print(table_row(name, size, measurements, rows[0][1]), flush=True)


if __name__ == "__main__":
    main()
