"""Real cells that take a second: how to configure and run one, and what it has left behind."""

import csv
import functools
import io
import json
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import tta_bench.records.snapshots as snapshots
from tta_bench.cell import Cell, run
from tta_bench.launch.check import check
from tta_bench.launch.grammar import quote_lists
from tta_bench.launch.targets import with_targets
from tta_bench.records.snapshots import SnapshotFile
from tta_bench.report.console import show

TINY = (
    "data.image_size=64",
    "data.limit=4",
    "training.epochs=1",
    "training.min_steps=0",
    "model.encoder=tu-test_resnet",  # a twentieth of the weights of resnet18, with which other tests run commands
    "model.decoder_channels=[16,16,8,8,8]",
    "source=D",
    "target=A,C",
    "device=cpu",
)


@functools.cache
def configure(root, *overrides):
    words = quote_lists(["+method=grata", *TINY, f"results_root={root}", *overrides], False)
    given = {word.partition("=")[0].lstrip("+"): word for word in words}
    kept = [word for key, word in given.items() if "checkpoint" not in given or not key.startswith("training")]
    (config,) = check(kept, multirun=False)
    return config


def execute(config):
    """Run the cell; returns what it printed."""
    console = Console(file=io.StringIO(), width=80)
    for outcome in run(config):
        show(console, *outcome)
    return console.file.getvalue()


@contextmanager
def interrupted(after):
    """What runs within is stopped by Ctrl-C at its snapshot number ``after``, of which every image has one."""
    keep, calls = SnapshotFile.keep, []

    def stop(self, snapshot):
        keep(self, snapshot)
        calls.append(snapshot)
        if len(calls) == after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots, "SNAPSHOT_SECONDS", 0)
        patch.setattr(snapshots, "SNAPSHOT_SHARE", float("inf"))
        patch.setattr(SnapshotFile, "keep", stop)
        with pytest.raises(KeyboardInterrupt):
            yield


def folder(config, seed=0):
    return Cell(with_targets(config), seed).folder().path


def rows(config, seed=0):
    return list(csv.DictReader((folder(config, seed) / "per_image.csv").open(newline="")))


def summary(config, seed=0):
    return json.loads((folder(config, seed) / "summary.json").read_text())


def status(config, seed=0):
    return json.loads((folder(config, seed) / "status.json").read_text())


def numbers(config, seed=0):
    """The rows without the time they took."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows(config, seed)]


def random_pairs(folder, counts):
    """Images and masks of noise, 64 pixels wide, for ``data=folder``: domain -> how many."""
    for name, count in counts.items():
        for kind in ("image", "mask"):
            (folder / name / kind).mkdir(parents=True)
        for index in range(count):
            draw = np.random.default_rng([ord(name), index])
            Image.fromarray(draw.integers(0, 255, (64, 64, 3), np.uint8)).save(folder / f"{name}/image/{index}.png")
            Image.fromarray(draw.integers(0, 2, (64, 64), np.uint8)).save(folder / f"{name}/mask/{index}.png")
    return folder
