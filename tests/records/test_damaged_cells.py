"""The law of damaged results: every damage x every reader counts the cell as missing and names the file, once."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from rich.console import Console

from made_tables import IMAGES, finish, made_plan, planned
from tta_bench.records.store import CellFolder
from tta_bench.report.cells import read_cell
from tta_bench.report.streams import streams_of
from tta_bench.report.tables import build_table
from tta_bench.report.write import failures, plan_table, remaining_time, states, status_table


def edited(name, change):
    """Rewrites a text file."""

    def damage(folder):
        path = folder / name
        path.write_text(change(path.read_text()))

    return damage


def summary(change):
    """Rewrites ``summary.json`` after a change of its content."""

    def damage(folder):
        content = json.loads((folder / "summary.json").read_text())
        change(content)
        (folder / "summary.json").write_text(json.dumps(content))

    return damage


def column(name, value):
    """Puts a value into a column of the second row."""

    def change(text):
        heading, first, second, *others = text.splitlines()
        fields = second.split(",")
        fields[heading.split(",").index(name)] = value
        return "\n".join([heading, first, ",".join(fields), *others])

    return edited("per_image.csv", change)


def arrays(**changes):
    """Writes other arrays into ``predictions.npz``; None leaves one out."""

    def damage(folder):
        path = folder / "predictions.npz"
        with np.load(path) as file:
            content = {**file, **{name.replace("_", "/"): value for name, value in changes.items()}}
        np.savez_compressed(path, **{name: value for name, value in content.items() if value is not None})

    return damage


def bomb(folder):
    """More bytes than a target's masks can have."""
    with zipfile.ZipFile(folder / "predictions.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for target in ("C", "D"):
            with file.open(f"{target}/bits.npy", "w") as member:
                np.lib.format.write_array_header_1_0(
                    member, {"descr": "|u1", "fortran_order": False, "shape": (IMAGES, 2**24)}
                )
                member.write(bytes(IMAGES * 2**24))
            with file.open(f"{target}/shape.npy", "w") as member:
                np.lib.format.write_array(member, np.array([2, 64, 64]))


WHOLE_FILES = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "circle of links": lambda path: (path.unlink(), path.symlink_to(path)),
}
DAMAGES = (
    {
        f"{name}: {damage}": lambda folder, name=name, make=make: make(folder / name)
        for name in ("per_image.csv", "summary.json", "status.json", "predictions.npz")
        for damage, make in WHOLE_FILES.items()
    }
    | {
        f"summary.json: {text}": edited("summary.json", lambda _, text=text: text)
        for text in ("{", "{}", "[]", "3", "NaN", "null", '"done"', "[" * 100_000, '{"dice": NaN}')
    }
    | {
        f"status.json: {text}": edited("status.json", lambda _, text=text: text)
        for text in ("{", "{}", "[]", "null", '"done"', '{"state": "done"}')
    }
    | {
        f"status.json: status {text}": edited("status.json", lambda _, text=text: f'{{"status": {text}}}')
        for text in ("3", '["done"]', '""', '"stale"')
    }
    | {
        "per_image.csv: gone": lambda folder: (folder / "per_image.csv").unlink(),
        "summary.json: gone": lambda folder: (folder / "summary.json").unlink(),
        "per_image.csv: heading alone": edited("per_image.csv", lambda text: text.splitlines()[0] + "\n"),
        "per_image.csv: last row lost": edited("per_image.csv", lambda text: text[: text[:-1].rindex("\n") + 1]),
        "per_image.csv: last field lost": edited("per_image.csv", lambda text: text[: text.rindex(",")]),
        "per_image.csv: a row twice": edited("per_image.csv", lambda text: text + text.splitlines()[-1] + "\n"),
        "per_image.csv: no column dice": edited("per_image.csv", lambda text: text.replace(",dice,", ",nice,")),
        "per_image.csv: no column of a class": edited("per_image.csv", lambda text: text.replace("dice_cup", "cup")),
        "per_image.csv: a field too many": edited("per_image.csv", lambda text: text.replace("\n", ",1\n", 2)[:-2]),
        "per_image.csv: open quote": edited("per_image.csv", lambda text: text + '"'),
        "per_image.csv: huge field": column("image", "x" * 200_000),
        "per_image.csv: NUL": column("image", "a\0b"),
        "per_image.csv: text for a number": column("dice", "much"),
        "per_image.csv: text for another number": column("seconds", "0,5".replace(",", "·")),
        "per_image.csv: another number": column("dice", "12.5"),
        "per_image.csv: another number of a class": column("dice_cup", "12.5"),
        "per_image.csv: an index twice": column("index", "0"),
        "per_image.csv: index of no image": column("index", "-1"),
        "per_image.csv: no position": column("position", ""),
        "per_image.csv: another target": column("target", "E"),
        "summary.json: no targets": summary(lambda content: content.update(targets={})),
        "summary.json: targets are a list": summary(lambda content: content.update(targets=["C", "D"])),
        "summary.json: n is text": summary(lambda content: content["targets"]["C"].update(n="3")),
        "summary.json: n is another": summary(lambda content: content["targets"]["C"].update(n=4)),
        "summary.json: no class": summary(
            lambda content: [content["targets"]["C"].pop(f"dice_{c}") for c in ("disc", "cup")]
        ),
        "summary.json: a class is null": summary(lambda content: content["targets"]["C"].update(dice_cup=None)),
        "summary.json: another Dice of a target": summary(lambda content: content["targets"]["C"].update(dice=12.5)),
        "summary.json: another Dice": summary(lambda content: content.update(dice=12.5)),
        "summary.json: Dice beyond 100": summary(lambda content: content.update(dice=1e9)),
        "summary.json: Dice is infinite": summary(lambda content: content.update(dice=float("inf"))),
        "summary.json: another checkpoint": summary(lambda content: content.update(source_checkpoint={"path": 1})),
        "summary.json: a checkpoint with more": summary(lambda content: content["source_checkpoint"].update(more=1)),
        "summary.json: a metric that no target has": summary(
            lambda content: content.update(metrics={"dice": "", "iou": ""})
        ),
        "summary.json: no data": summary(lambda content: content.pop("data")),
        "summary.json: other data": summary(lambda content: content["data"].pop("C")),
        "summary.json: versions are text": summary(lambda content: content.update(versions="1.0")),
        "predictions.npz: bomb": bomb,
        "predictions.npz: another shape": arrays(C_shape=np.array([2, 128, 64])),
        "predictions.npz: no shape": arrays(C_shape=np.array([])),
        "predictions.npz: huge shape": arrays(C_shape=np.array([2**40, 2**40, 2**40])),
        "predictions.npz: shape of objects": arrays(C_shape=np.array(["2", "64", "64"])),
        "predictions.npz: fewer images": arrays(C_bits=np.zeros((1, 1024), np.uint8)),
        "predictions.npz: a target is missing": arrays(C_bits=None),
    }
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_makes_the_cell_missing_for_every_reader(tmp_path, caplog, damage):
    plan = made_plan([planned(tmp_path, "no_adapt", {}), planned(tmp_path, "tent", {"method": "tent"})])
    for entry in plan.cells:
        finish(entry.cell, lambda target, index: 50.0 + index)
    cell = plan.cells[1].cell
    DAMAGES[damage](cell.folder().path)

    assert cell.folder().finished() is None
    assert read_cell(cell)[:2] == ("missing", "")
    assert read_cell(cell).seconds is None
    assert remaining_time(states(plan)).startswith("1 cell remains")
    assert failures(states(plan)) == []
    console = Console(file=io.StringIO(), width=200)
    for table in (plan_table(plan), status_table(plan, states(plan))):
        console.print(table)
    assert console.file.getvalue().count("missing") == 2
    (missing,) = build_table(plan).missing
    assert (missing.row, missing.status) == ("tent", "missing")
    assert list(streams_of(build_table(plan))) == ["no_adapt"]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"{cell.folder().path}/")
    assert damage.split(":")[0] in warning
    assert warning.endswith("the cell counts as missing, the next run computes it again")
    assert len(warning) < 500


def test_a_cell_without_predictions_is_finished(tmp_path):
    entry = planned(tmp_path, "no_adapt", {})
    finish(entry.cell, lambda *_: 50.0)
    (entry.cell.folder().path / "predictions.npz").unlink()
    assert entry.cell.folder().finished() is not None


def test_changed_bits_of_predictions_are_found_where_they_are_decoded(tmp_path):
    entry = planned(tmp_path, "no_adapt", {})
    finish(entry.cell, lambda *_: 50.0)
    path = entry.cell.folder().path / "predictions.npz"
    with zipfile.ZipFile(path) as file:
        place = file.getinfo("C/bits.npy").header_offset + 60
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)
    assert entry.cell.folder().finished(thoroughly=True) is None


def test_a_cell_that_was_never_started_is_missing_without_a_warning(tmp_path, caplog):
    assert CellFolder(tmp_path / "cells" / "0123").finished() is None
    assert not caplog.records
