"""What a prediction leaves on disk, and the cell that it is held against."""

import csv

import numpy as np
from PIL import Image

from tta_bench.cell import run
from tta_bench.launch.check import check
from tta_bench.launch.grammar import quote_lists

CLASSES = {"disc": (1, 2), "cup": (2,)}
N = 6


def finished(root, results, *words):
    """A finished cell from D to A, and its source model."""
    words += ("data=folder", f"data.root={root / 'data'}", "data.image_size=64", "source=D", "device=cpu")
    words += (f"results_root={results}", "model.encoder=tu-test_resnet", "model.decoder_channels=[16,16,8,8,8]")
    (config,) = check(quote_lists(words, False), multirun=False)
    list(run(config))
    (checkpoint,) = (results / "source_models").glob("*/model.ckpt")
    return config, checkpoint


def table(out, name="predictions.csv"):
    with (out / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files(out):
    """All that is in a folder but what depends on time or place."""
    left_out = ("seconds", "config.yaml", ".lock")
    contents = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name not in left_out:
            contents[path.relative_to(out).as_posix()] = path.read_bytes()
    rows = [{key: cell for key, cell in row.items() if key != "seconds"} for row in table(out)]
    contents["predictions.csv"] = rows
    return contents


def pixels(path):
    return np.asarray(Image.open(path))
