"""How long Tables 1 to 5 take on many GPUs: a simulation with the rules of the launchers.

    python benchmarks/scaling.py MEASURED

MEASURED is a results folder with a finished cell of every method of Table 1: passes per image and sizes of files are
taken from it. What a pass takes on a GPU is **assumed**, from counted operations; see ``docs/scaling.md``.
"""

from __future__ import annotations

import heapq
import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

IMAGES = {"A": 159, "B": 400, "C": 650, "D": 800, "E": 101}
"""Of the paper's domains."""

SIZE, EPOCHS = 512, 200
"""Pixels of a side, and epochs of ``training=paper``."""

RATE = 10e12
"""Assumed: operations per second that a GPU reaches, about a quarter of what data sheets of its class print."""

LAUNCHING = 0.005
"""Assumed: seconds per pass that go into launching kernels, whatever the GPU."""

STARTING = 15.0
"""Assumed: seconds of a worker per cell before its first image: processes, the source model, prepared images."""

FAILING = 0.01
"""Assumed: part of the cells that fail or are killed half-way, once, and are computed by a second command."""


class Job(NamedTuple):
    """A training or a cell: how long it keeps a GPU, and how many images it logs."""

    seconds: float
    images: int


def makespan(jobs: Sequence[Job], places: int, begin: float = 0.0) -> float:
    """When the last job ends if each, in order, takes the place that is free first."""
    free = [begin] * places
    for job in jobs:
        heapq.heappush(free, heapq.heappop(free) + job.seconds)
    return max(free)


def sweep(trainings: Sequence[Job], cells: Sequence[Job], places: int, failing: float = FAILING) -> float:
    """Seconds of a whole sweep: source models first and each once, then the cells, then those that failed again.

    A failed cell has taken half of its time, and is repeated by the second command when the first is over.
    """
    draw = random.Random(0)
    fails = [draw.random() < failing for _ in cells]
    first = [job._replace(seconds=job.seconds / 2) if bad else job for job, bad in zip(cells, fails, strict=True)]
    trained = makespan(trainings, places)
    done = makespan(first, places, trained)
    return makespan([job for job, bad in zip(cells, fails, strict=True) if bad], places, done)


def operations() -> float:
    """Floating-point operations of one forward pass of the paper's network, counted without computing them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from tta_bench.models.networks.resunet34 import ResUNet

    with torch.device("meta"):
        network, image = ResUNet(2), torch.empty(1, 3, SIZE, SIZE)
        with FlopCounterMode(display=False) as counter:
            network(image)
    return float(counter.get_total_flops())


def measured(root: Path) -> tuple[dict[str, tuple[float, float]], float, float]:
    """Method -> forwards and backwards per image; megabytes of a source model; bytes of a cell per image and pixel."""
    summaries = [json.loads(path.read_text()) for path in sorted(root.glob("cells/*/summary.json"))]
    passes = {each["method"]: (each["forwards_per_image"], each["backwards_per_image"]) for each in summaries}
    models = fmean(path.stat().st_size for path in root.glob("source_models/*/model.ckpt")) / 1e6
    sizes = []
    for path in root.glob("cells/*/predictions.npz"):
        images = sum(
            target["n"] for target in json.loads((path.parent / "summary.json").read_text())["targets"].values()
        )
        sizes.append(path.stat().st_size / images)
    return passes, models, fmean(sizes)


def jobs(passes: Mapping[str, tuple[float, float]], forward: float, seeds: int) -> tuple[list[Job], list[Job]]:
    """Trainings and cells of Tables 1 to 5 over training seeds, each distinct one once, in the order of their plans."""
    from tta_bench.launch.experiments import plan
    from tta_bench.launch.workers import to_train

    planned: dict[Path, Any] = {}
    for number in range(1, 6):
        for entry in plan(f"table{number}").cells:
            planned.setdefault(entry.cell.folder().path, entry.cell)
    cells = []
    for cell in planned.values():
        name = cell.config.method["name"]
        forwards, backwards = passes.get(name, passes["grata"])
        count = sum(IMAGES[target] for target in cell.targets)
        # A backward pass is taken to be two forward ones.
        seconds = (forwards + 2 * backwards) * forward + (forwards + backwards) * LAUNCHING
        cells.append(Job(STARTING + count * seconds, count))
    trainings = [
        Job(EPOCHS * IMAGES[config.source] * 3 * forward, EPOCHS)
        for config in to_train([cell.config.model_copy(update={"force": True}) for cell in planned.values()])
    ]
    return trainings * seeds, cells * seeds


def main() -> None:
    """Print the table of ``docs/scaling.md``."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    passes, model_size, per_image = measured(Path(sys.argv[1]))
    count = operations()
    forward = count / RATE
    trainings, cells = jobs(passes, forward, seeds=10)
    busy = sum(job.seconds for job in (*trainings, *cells)) / 3600
    print(f"one forward pass of {SIZE} pixels: {count / 1e9:.0f} GFLOP, assumed {1000 * forward:.1f} ms")
    print(
        f"{len(trainings)} trainings, {len(cells)} cells, {sum(job.images for job in cells)} images: "
        f"{busy:.0f} GPU hours"
    )
    print(f"longest training {max(trainings).seconds / 3600:.1f} h, longest cell {max(cells).seconds / 60:.0f} min")
    print(f"source model {model_size:.0f} MB; predictions {per_image:.0f} bytes per image at the measured size")
    print("GPUs     hours   busy  cells/min  model MB/s  images/s")
    for places in (1, 8, 100):
        hours = sweep(trainings, cells, places) / 3600
        adapting = sum(job.seconds for job in cells) / places
        told = f"{len(cells) / adapting * 60:9.1f}  {len(cells) * model_size / adapting:10.2f}"
        images = sum(job.images for job in cells) / adapting
        print(f"{places:4}  {hours:8.1f}  {busy / hours / places:5.0%}  {told}  {images:8.0f}")


if __name__ == "__main__":
    main()
