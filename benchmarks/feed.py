"""Where the time of a cell goes, image by image: what feeds the method and scores it, beside the method itself.

    PYTHONPATH=src python benchmarks/feed.py --images 6

The paper's ResUNet-34 with random weights goes along prepared, memory-mapped photographs under the product's own loop,
scoring and snapshots, and every part is timed where the product calls it. On a GPU a second run under torch's profiler
tells how long the device stood still.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tta_bench.__main__  # noqa: F401 -- sets the environment of the product, which torch reads on import

METHOD = ("adapt", "predict", "wait for predictions")
"""Parts that are the method's own work; a GPU does it after it was asked for, and is waited for behind."""
WITHIN, BEHIND = ", within adapt", ", in a thread"
"""Ends of the names of parts that are no parts of the loop's own time."""
WARM_UP = 3
"""Images of each stream that are left out: the first, that in which a GPU's passes are recorded, and one more."""


class Clock:
    """Seconds of each part; a part within another is counted in both, one in a thread has a name of its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Time every call of a function or method from now on."""
        call: Callable[..., Any] = getattr(owner, attribute)

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                part = name if threading.current_thread() is threading.main_thread() else name + BEHIND
                self.seconds[part] += time.perf_counter() - begin

        setattr(owner, attribute, timed)


def photographs(folder: Path, size: int, count: int) -> Any:
    """A domain of synthetic photographs, mapped into memory as prepared ones are."""
    import numpy as np

    from tta_bench.data.domain import Domain
    from tta_bench.data.synthetic.render import render

    pairs = [render("A", index, size=size) for index in range(count)]
    for name, arrays in zip(("images", "masks"), zip(*pairs, strict=True), strict=True):
        np.save(folder / f"{name}.npy", np.stack(arrays))
    images, masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "masks"))
    names = tuple(map(str, range(count)))
    return Domain("A", names, images, masks, {"disc": (1, 2), "cup": (2,)}, fingerprint="")


def measure(arguments: argparse.Namespace, profiled: bool = False) -> dict[str, float]:
    """Seconds per image of each part, and of ``all``; profiled, instead, those in which the device stood ``still``."""
    import pytorch_lightning as pl
    import torch

    from tta_bench.adaptation import runner
    from tta_bench.adaptation.resumption import Resumption
    from tta_bench.adaptation.scoring import Scoring
    from tta_bench.data.streams import LockstepDataset, LockstepGroups, passes
    from tta_bench.methods.base import METHODS
    from tta_bench.methods.options import default_options
    from tta_bench.models.adaptable import AdaptableNetwork
    from tta_bench.models.networks.resunet34 import ResUNet
    from tta_bench.models.placement import place
    from tta_bench.ops.draws import drawn
    from tta_bench.ops.masks import Finish
    from tta_bench.records.snapshots import SnapshotFile
    from tta_bench.runtime.memory import keep_freed_memory
    from tta_bench.runtime.numerics import is_gpu, resolve_device

    clock, count, size = Clock(), arguments.images, arguments.size
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])

    class Window(pl.Callback):
        """Forgets the first images, and profiles the others."""

        begin = end = 0.0

        def on_test_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int, *_: Any) -> None:
            self.end = time.perf_counter()
            if index == WARM_UP - 1:
                if profiled:
                    profiler.start()
                clock.seconds.clear()
                self.begin = time.perf_counter()
            elif index == WARM_UP + count - 1 and profiled:
                profiler.stop()

    keep_freed_memory()
    torch.manual_seed(0)
    kind, options = METHODS.get(arguments.method), default_options(arguments.method)
    branches = kind.branches(options)
    network = AdaptableNetwork(ResUNet(2, branches=branches), branches, image_size=size)
    device = resolve_device(arguments.device)
    method = kind(place(network, device, size, arguments.precision), options)
    with tempfile.TemporaryDirectory() as folder:
        names = [f"A{stream}" for stream in range(arguments.streams)]
        domains = dict.fromkeys(names, photographs(Path(folder), size, WARM_UP + count))
        groups = LockstepGroups(passes(domains, names), width=len(names))
        scoring, window = Scoring(domains, Finish("sigmoid", 0.5), ["dice"]), Window()
        snapshots = Resumption(SnapshotFile(Path(folder) / "snapshot", {}), method, scoring, [groups])
        watched = {
            "adapt": (kind, "adapt"),
            "predict": (kind, "predict"),
            "load": (LockstepDataset, "__getitem__"),
            "to device": (runner.AdaptationModule, "transfer_batch_to_device"),
            "score": (scoring, "_scored"),
            "snapshot": (snapshots, "on_test_batch_end"),
        }
        if is_gpu(device):
            watched["wait for predictions"] = scoring, "settle"
        for part, (owner, attribute) in watched.items():
            clock.watch(owner, attribute, part)
        for module in [each for each in sys.modules.values() if vars(each).get("drawn") is drawn]:
            clock.watch(module, "drawn", "draws" + WITHIN)
        runner.adapt_streams(method, domains, groups, seeds=[0], observers=[scoring, snapshots, window])
    whole, images = window.end - window.begin, count * len(names)
    if profiled:
        return {"still": (whole - busy(profiler)) / images}
    clock.seconds["all else"] = whole - sum(
        seconds for part, seconds in clock.seconds.items() if not part.endswith((WITHIN, BEHIND))
    )
    return {part: seconds / images for part, seconds in (*clock.seconds.items(), ("all", whole))}


def busy(profiler: Any) -> float:
    """Seconds in which the device did anything: kernels and copies, of which some run at the same time."""
    ranges = [event.time_range for event in profiler.events() if event.device_type.name == "CUDA"]
    total = end = 0.0
    for each in sorted(ranges, key=lambda each: each.start):
        total += max(0.0, each.end - max(each.start, end))
        end = max(end, each.end)
    return total / 1e6


def main() -> None:
    """Print a table of the parts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--method", default="grata")
    parser.add_argument("--size", type=int, default=512, help="side of the network's input, pixels")
    parser.add_argument("--images", type=int, default=6, help=f"of each stream, after {WARM_UP} that are not timed")
    parser.add_argument("--streams", type=int, default=1, help="side by side")
    parser.add_argument("--precision", default="f32", choices=["f32", "tf32", "bf16"])
    parser.add_argument("--device", default="auto", help="as device= of a run")
    parsed = parser.parse_args()
    seconds = measure(parsed)
    print("| part | ms per image | share |\n| --- | --- | --- |")
    for part, each in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"| {part} | {1e3 * each:.2f} | {each / seconds['all']:.2%} |")
    beside = 1 - sum(seconds.get(part, 0) for part in METHOD) / seconds["all"]
    print(f"\noutside adapt and predict: {beside:.2%}")
    from tta_bench.runtime.numerics import is_gpu, resolve_device

    if is_gpu(resolve_device(parsed.device)):
        print(f"the device stood still for {1e3 * measure(parsed, profiled=True)['still']:.2f} ms per image")


if __name__ == "__main__":
    main()
