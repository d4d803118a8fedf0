"""Time and memory of each method, as ratios to the published procedure in the same run; see ``README.md`` beside this.

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

from history import HISTORY, Entry, Row, append, read, regressions

METHODS = ("no_adapt", "bn_only", "tent", "sar", "detta", "dltta", "memo", "cotta", "grata")
"""Those that ``plain_loops.py`` has a loop of."""


COLUMNS = ("method", "size", "precision", "device", "ms", "plain_ms", "ratio", "peak_mib", "plain_peak_mib")
COLUMNS += ("forwards", "backwards")


@dataclass(frozen=True)
class Task:
    """One measurement in a process of its own.

    Attributes:
        method: one of :data:`METHODS`.
        plain: whether its plain loop is measured, in torch's own precision, and not the method of tta_bench.
        size: side of the image in pixels.
        images: timed images of each stream.
        warmup: images before them.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: of torch; None for its default.
        streams: adapted side by side; a plain loop has one.
        precision: as precision= of a run.
    """

    method: str
    plain: bool
    size: int
    images: int
    warmup: int
    device: str
    threads: int | None
    streams: int
    precision: str


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


ALSO_ON_RANDOM_WEIGHTS = {"sar": {"margin": 1.0}}
"""Options of loop and method alike, without which a network with random weights would not be adapted at all: no pixel
of its prediction is sure enough for SAR."""


def measure(task: Task) -> Measurement:
    """Carry out a task in this process, which has not imported torch yet."""
    if not task.plain:
        import tta_bench.__main__  # noqa: F401 -- sets the environment of the product, which torch reads on import
    import torch

    from tta_bench.runtime.memory import PeakMemory, keep_freed_memory
    from tta_bench.runtime.numerics import numerics, resolve_device

    if not task.plain:
        keep_freed_memory()
    if task.threads is not None:
        torch.set_num_threads(task.threads)
    random.seed(0)
    torch.manual_seed(0)
    device = resolve_device(task.device)
    memory = PeakMemory(device)
    timed = time_plain_loop if task.plain else time_method
    with numerics(device, "f32" if task.plain else task.precision):  # type: ignore[arg-type]
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

    from plain_loops import LOOPS, PlainResUNet

    np.random.seed(0)
    kind = LOOPS[task.method]
    loop = kind(PlainResUNet(2, branches=kind.branches).to(device))
    vars(loop).update(ALSO_ON_RANDOM_WEIGHTS.get(task.method, {}))
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
    from tta_bench.methods.options import default_options
    from tta_bench.models.adaptable import AdaptableNetwork
    from tta_bench.models.networks.resunet34 import ResUNet
    from tta_bench.models.placement import place
    from tta_bench.ops.draws import ImageKey

    kind, options = METHODS.get(task.method), default_options(task.method)
    options = replace(options, **ALSO_ON_RANDOM_WEIGHTS.get(task.method, {}))
    branches = kind.branches(options)
    model = AdaptableNetwork(ResUNet(2, branches=branches), branches)
    network = place(model, device, task.size, task.precision)  # type: ignore[arg-type]
    method = kind(network, options)
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


def compare(task: Task, repeat: int) -> Row:
    """Measure the plain loop and the method ``repeat`` times in turns, so that drift of the machine hits both alike."""
    pairs = []
    for turn in range(repeat):
        print(f"{task.method}, {task.size} px, turn {turn + 1} of {repeat}", file=sys.stderr)
        pairs.append((run_task(replace(task, plain=True)), run_task(task)))
    plain, own = (list(each) for each in zip(*pairs, strict=True))
    last = own[-1]
    return {
        "method": task.method,
        "size": task.size,
        "precision": task.precision,
        "streams": task.streams,
        "device": last.device,
        "threads": last.threads,
        "ms": round(statistics.median(each.milliseconds for each in own), 2),
        "plain_ms": round(statistics.median(each.milliseconds for each in plain), 2),
        "ratio": round(statistics.median(b.milliseconds / a.milliseconds for a, b in pairs), 4),
        "peak_mib": round(max(each.peak_mib for each in own)),
        "plain_peak_mib": round(max(each.peak_mib for each in plain)),
        "forwards": last.forwards,
        "backwards": last.backwards,
    }


def table_row(row: Row) -> str:
    """One line of the Markdown table."""
    return f"| {' | '.join(f'{row[name]:g}' if isinstance(row[name], float) else str(row[name]) for name in COLUMNS)} |"


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
    result = argparse.ArgumentParser(description="Time and memory of methods, as ratios to the published procedures.")
    result.add_argument("--sizes", type=image_side, nargs="+", default=[128, 256, 512], help="image sides in pixels")
    result.add_argument("--methods", nargs="+", default=["no_adapt", "bn_only", "tent", "grata"], choices=METHODS)
    result.add_argument("--images", type=at_least(1), default=5, help="timed images per process (and stream)")
    result.add_argument("--warmup", type=at_least(0), default=1, help="images before them")
    result.add_argument("--repeat", type=at_least(1), default=3, help="turns of plain loop and method")
    result.add_argument("--device", default="auto", help="as device= of a run")
    result.add_argument("--precision", default="f32", choices=("f32", "tf32", "bf16"), help="as precision= of a run")
    result.add_argument("--threads", type=at_least(1), help="of torch, in every process; default: torch's own choice")
    result.add_argument(
        "--streams", type=at_least(1), default=1, help="adapted side by side by a method, to fill a GPU"
    )
    result.add_argument("--json", type=Path, help="also write the numbers to this file")
    result.add_argument("--record", action="store_true", help=f"also append them to {HISTORY.name}")
    result.add_argument("--check", action="store_true", help="fail where a ratio is 10 %% above this machine's last")
    result.add_argument("--task", help=argparse.SUPPRESS)
    return result


def commit() -> str:
    """The commit of the tree, with a plus where files differ from it; nothing outside a repository."""
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return name.strip() + ("+" if changed.strip() else "")


def main() -> None:
    """Measure, print, keep and compare."""
    arguments = parser().parse_args()
    if arguments.task:
        from tta_bench.errors import UserError

        try:
            print(json.dumps(asdict(measure(Task(**json.loads(arguments.task))))))
        except UserError as error:
            sys.exit(f"error: {error}")
        return
    machine = f"{processor()}, {os.cpu_count()} cores"
    before = read(HISTORY)
    if arguments.check and not any(entry["machine"] == machine for entry in before):
        print(f"error: {HISTORY} has no entry of this machine ({machine}): make one with --record", file=sys.stderr)
        sys.exit(2)
    shared = (arguments.images, arguments.warmup, arguments.device, arguments.threads, arguments.streams)
    rows: list[Row] = []
    for size in arguments.sizes:
        for method in arguments.methods:
            rows.append(compare(Task(method, False, size, *shared, arguments.precision), arguments.repeat))
            if len(rows) == 1:
                print(f"{machine}, {rows[0]['threads']} threads, streams side by side: {arguments.streams}\n")
                print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
            print(table_row(rows[-1]), flush=True)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    entry: Entry = {"machine": machine, "commit": commit(), "load": load, "rows": rows}
    if arguments.json:
        arguments.json.write_text(json.dumps(entry, indent=1) + "\n")
    if arguments.record:
        append(HISTORY, entry)
    if arguments.check and (slower := regressions(before, entry)):
        sys.exit("\n".join(slower))


if __name__ == "__main__":
    main()
