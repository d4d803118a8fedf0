"""A table whose cells were never computed: small synthetic images, and predictions that are the truth moved aside."""

import numpy as np

from made_tables import EXAMINATION, summary_of
from tta_bench.data.prepare import prepare
from tta_bench.launch.experiments import plan
from tta_bench.records.predictions import Predictions
from tta_bench.report.tables import build_table

IMAGES = 6
SHIFTS = {"no_adapt": 6, "bn_only": 4, "tent": 3, "grata": 1}
"""Pixels that a method's predictions are off."""


def fabricated_plan(root, *overrides):
    """The plan of three domains at 64 pixels; nothing is finished yet."""
    common = ["data.image_size=64", f"data.limit={IMAGES}", "source=A,B", "target=C,D", f"results_root={root}"]
    return plan("first_look", [*common, *overrides])


def finish(planned, shift=None, **more):
    """Write the results of a cell; ``more`` are further columns: name -> function of the image's position."""
    cell = planned.cell
    method = cell.config.method["name"]
    shift = SHIFTS[method] if shift is None else shift
    domains = prepare(cell.config.data, cell.targets, cell.config.results_root / "data", progress=False)
    rows, predictions, targets = [], {}, {}
    for name in cell.targets:
        domain = domains[name]
        masks = [np.roll(domain.label(i).numpy(), shift + i % 3, axis=-1) for i in range(len(domain))]
        predictions[name] = Predictions.of(masks)
        images = []
        for index, mask in enumerate(masks):
            dice = dict(zip(domain.classes, dice_of(mask, domain.label(index).numpy()), strict=True))
            place = {"target": name, "index": index, "image": domain.image_names[index], "position": index}
            images.append(
                {"source": cell.config.source, **place, "method": method, "seed": cell.seed}
                | {f"dice_{label}": value for label, value in dice.items()}
                | {"dice": sum(dice.values()) / len(dice)}
                | {column: value(index) for column, value in more.items()}
                | {"seconds": 0.01}
            )
        columns = [*(f"dice_{label}" for label in domain.classes), "dice"]
        targets[name] = {"n": len(images), "seconds_per_image": 0.01} | {
            column: sum(row[column] for row in images) / len(images) for column in columns
        }
        rows += images
    folder = cell.folder()
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.start({"hash": folder.hash, **cell.identity()})
    checkpoint = {"path": f"{cell.config.source}/<model>.ckpt", "sha256": "ab" * 32, "dice_in_domain": 91.25}
    checkpoint["examination"] = EXAMINATION
    fingerprints = {name: domains[name].fingerprint for name in targets}
    summary = summary_of(cell, targets, source_checkpoint=checkpoint, data=fingerprints, peak_memory_mb=1234.5)
    folder.finish(rows, predictions, summary)
    return folder


def dice_of(prediction, truth):
    """Percent per class of ``[classes, H, W]``."""
    both = (prediction & truth).sum(axis=(1, 2))
    return (200 * both / (prediction.sum(axis=(1, 2)) + truth.sum(axis=(1, 2)))).tolist()


def fabricated_table(root, *overrides, leave_out=()):
    """A table of which all cells but those of ``leave_out`` ((row, source) pairs) are finished."""
    planned = fabricated_plan(root, *overrides)
    for entry in planned.cells:
        if (entry.row, entry.cell.config.source) not in leave_out:
            more = {"lr": lambda i: 1e-4 * (i + 1)} if entry.row in ("tent", "grata") else {}
            if entry.row == "grata":
                more |= {"cosine": lambda i: 0.1 * i, "cosine_empirical": lambda i: 0.05 * i}
            finish(entry, **more)
    return build_table(planned)
