"""Where the time of a cell goes, image by image: what feeds the method and scores it, beside the method itself.

    PYTHONPATH=src python benchmarks/feed.py --images 6

The paper's ResUNet-34 with random weights goes along prepared, memory-mapped photographs under the product's own loop,
scoring and snapshots, and every part is timed where the product calls it.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tta_bench.__main__  # noqa: F401 -- sets the environment of the product, which torch reads on import

METHOD = ("adapt", "predict")
"""Parts that are the method's own work."""


class Clock:
    """Seconds of each part; a part within another is counted in both."""

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
                self.seconds[name] += time.perf_counter() - begin

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


def measure(name: str, size: int, count: int, device_name: str) -> dict[str, float]:
    """Seconds per image of each part, and of ``all``; a first image, which warms up, is left out."""
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
    from tta_bench.runtime.numerics import resolve_device

    clock = Clock()

    class Begin(pl.Callback):
        """Forgets the first image."""

        begin = end = 0.0

        def on_test_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int, *_: Any) -> None:
            self.end = time.perf_counter()
            if index == 0:
                clock.seconds.clear()
                self.begin = self.end

    keep_freed_memory()
    torch.manual_seed(0)
    kind, options = METHODS.get(name), default_options(name)
    branches = kind.branches(options)
    network = AdaptableNetwork(ResUNet(2, branches=branches), branches, image_size=size)
    method = kind(place(network, resolve_device(device_name), size), options)
    with tempfile.TemporaryDirectory() as folder:
        domains = {"A": photographs(Path(folder), size, count + 1)}
        groups = LockstepGroups(passes(domains, ["A"]))
        scoring, begin = Scoring(domains, Finish("sigmoid", 0.5), ["dice"]), Begin()
        snapshots = Resumption(SnapshotFile(Path(folder) / "snapshot", {}), method, scoring, [groups])
        watched = {
            "adapt": (kind, "adapt"),
            "predict": (kind, "predict"),
            "load": (LockstepDataset, "__getitem__"),
            "to device": (runner.AdaptationModule, "transfer_batch_to_device"),
            "score": (scoring, "on_test_batch_end"),
            "snapshot": (snapshots, "on_test_batch_end"),
        }
        for part, (owner, attribute) in watched.items():
            clock.watch(owner, attribute, part)
        for module in [each for each in sys.modules.values() if vars(each).get("drawn") is drawn]:
            clock.watch(module, "drawn", "draws, within adapt")
        runner.adapt_streams(method, domains, groups, seeds=[0], observers=[scoring, snapshots, begin])
    whole = begin.end - begin.begin
    clock.seconds["all else"] = whole - sum(s for part, s in clock.seconds.items() if "within" not in part)
    return {part: seconds / count for part, seconds in (*clock.seconds.items(), ("all", whole))}


def main() -> None:
    """Print a table of the parts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--method", default="grata")
    parser.add_argument("--size", type=int, default=512, help="side of the network's input, pixels")
    parser.add_argument("--images", type=int, default=6, help="after a first one")
    parser.add_argument("--device", default="auto", help="as device= of a run")
    parsed = parser.parse_args()
    seconds = measure(parsed.method, parsed.size, parsed.images, parsed.device)
    print("| part | ms per image | share |\n| --- | --- | --- |")
    for part, each in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"| {part} | {1e3 * each:.2f} | {each / seconds['all']:.2%} |")
    beside = 1 - sum(seconds[part] for part in METHOD) / seconds["all"]
    print(f"\noutside adapt and predict: {beside:.2%}")


if __name__ == "__main__":
    main()
