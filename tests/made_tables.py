"""Plans whose cells are real folders with made-up numbers."""

import functools
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from tta_bench.adaptation.provenance import code_of
from tta_bench.cell import Cell
from tta_bench.launch.check import check
from tta_bench.launch.experiments import Experiment, Plan, PlannedCell
from tta_bench.methods.options import default_options
from tta_bench.records.predictions import Predictions
from tta_bench.report.model import Drawings

TARGETS = ("C", "D")
IMAGES = 3
CLASSES = ("disc", "cup")
EXAMINATION = {"images": "held-out", "n": 20, "dice": 90.0, "ece": 2.0, "dice_image_statistics": 89.0}


@functools.cache
def base():
    """A composed configuration, changed by the plans below."""
    (config,) = check(["+method=no_adapt", "source=A", "target=[C,D]", "data.image_size=64"], multirun=False)
    return config


def changed(config, values):
    """The configuration with dotted keys set, ``method`` by its name."""
    for key, value in values.items():
        section, _, leaf = key.partition(".")
        if key == "method":
            config = config.model_copy(update={"method": {"name": value, **asdict(default_options(value))}})
        elif section == "method":
            config = config.model_copy(update={"method": {**config.method, leaf: value}})
        elif leaf:
            part = getattr(config, section).model_copy(update={leaf: value})
            config = config.model_copy(update={section: part})
        else:
            config = config.model_copy(update={key: value})
    return config


def planned(root, label, values, source="A", seed=0):
    """One cell of a row."""
    config = changed(base(), {"results_root": Path(root), "source": source, **values})
    return PlannedCell(label, Cell.of(config, seed))


def finish(cell, dice, **more):
    """Write the files of a finished cell.

    Args:
        cell: to finish.
        dice: (target, index) -> percent; both classes have it.
        more: entries of the summary to replace.
    """
    rows, targets = [], {}
    for target in cell.targets:
        values = [dice(target, index) for index in range(IMAGES)]
        mean = sum(values) / IMAGES
        targets[target] = {"n": IMAGES, **{f"dice_{name}": mean for name in CLASSES}, "dice": mean}
        targets[target]["seconds_per_image"] = 0.5
        rows += [
            {
                "source": cell.config.source,
                "target": target,
                "index": index,
                "image": f"{target}-{index:04d}",
                **{f"dice_{name}": value for name in CLASSES},
                "dice": value,
                "position": index,
                "seconds": 0.5,
            }
            for index, value in enumerate(values)
        ]
    size = cell.config.data.image_size
    masks = {target: Predictions.of([np.zeros((len(CLASSES), size, size), bool)] * IMAGES) for target in cell.targets}
    folder = cell.folder()
    folder.start({"hash": folder.hash})
    folder.finish(rows, masks, summary_of(cell, targets, **more))


def summary_of(cell, targets, **more):
    """The content of ``summary.json``.

    Args:
        cell: that is finished.
        targets: target -> n and mean Dice.
        more: entries to replace.
    """
    source = f"{cell.config.source}{cell.config.training.seed}"
    return {
        "cell": cell.folder().hash,
        "method": cell.config.method["name"],
        "source": cell.config.source,
        "seed": cell.seed,
        "protocol": cell.config.protocol.model_dump(mode="json"),
        "targets": targets,
        "dice": sum(target["dice"] for target in targets.values()) / len(targets),
        "skipped_updates": 0,
        "seconds_per_image": 0.5,
        "peak_memory_mb": 100.0,
        "forwards_per_image": 2.0,
        "backwards_per_image": 1.0,
        "source_checkpoint": {
            "path": f"models/{source}.ckpt",
            "sha256": source * 32,
            "dice_in_domain": 90.0,
            "examination": EXAMINATION,
        },
        "data": {target: target * 32 for target in targets},
        "versions": {"tta_bench": "0.1.0", "torch": "2.15.0", "device": "x86_64"},
        **code_of(cell.config),
        **more,
    }


def undrawn(table):
    """The table for tests of words and numbers: to draw all figures for a page takes seconds."""
    return replace(table, drawings=Drawings([], None, ""))


def texts_of(table):
    """All formats by the names of their files, without figures."""
    from tta_bench.report.formats import formats  # with what draws, which not all that make tables need

    return {name: write(undrawn(table)) for name, write in formats().items()}


def made_plan(cells, *, name="made", rows=None, controls=(), sweep=(), paper=None, reference="no_adapt", overrides=()):
    """A plan of given cells; ``rows`` default to what the labels say."""
    labels = dict.fromkeys(entry.row for entry in cells)
    experiment = Experiment(
        name=name,
        description="What a table of made-up numbers shows.",
        rows=rows or {label: {"method": label} for label in labels},
        controls=tuple(controls),
        sweep=dict(sweep),
        paper=paper or {},
        reference=reference,
    )
    return Plan(experiment, tuple(cells), tuple(overrides))


def simple_plan(root, gains, sources=("A", "B"), **options):
    """Every row on every source, finished, at ``50 + gain + a little per target and image``.

    Args:
        root: results root.
        gains: label, also the method's name -> gain over 50, or a function of (source, seed, target, index).
        sources: names of the sources.
        options: of :func:`made_plan`; ``seeds`` are those of methods that draw at random.
    """
    seeds = options.pop("seeds", (0,))
    cells = []
    for label, gain in gains.items():
        for source in sources:
            for seed in seeds:
                entry = planned(root, label, {"method": label}, source, seed)
                if entry in cells:
                    continue
                cells.append(entry)

                def dice(target, index, gain=gain, source=source, seed=entry.cell.seed):
                    extra = gain(source, seed, target, index) if callable(gain) else gain
                    return 50 + extra + 10 * (target == "D") + math.sqrt(index)

                finish(entry.cell, dice)
    return made_plan(cells, **options)
