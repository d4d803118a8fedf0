"""Joining results folders: the same in any order and again, refused where numbers differ, whole where it is killed."""

import json
import os
import re
import shutil

import pytest

from made_tables import finish, planned
from tta_bench.cli import main
from tta_bench.errors import UserError
from tta_bench.records.merging import file_digest, merge, plan_merge
from tta_bench.records.store import CellFolder


def made(root, *methods, gain=0.0, model=b"weights"):
    """A results folder with finished cells, and the source model that they used."""
    path = root / "source_models/0123/model.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model)
    checkpoint = {"path": "outputs/source_models/0123/model.ckpt", "sha256": file_digest(path), "dice_in_domain": 90.0}
    for method in methods:
        finish(planned(root, method, {"method": method}).cell, lambda _, k: 50 + gain + k, source_checkpoint=checkpoint)
    return root


def joined(*roots):
    return [*merge(plan_merge(roots[:-1], roots[-1]))]


def content(root):
    """Every file that counts, with its bytes."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name not in (".lock", "lock"))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture
def two(tmp_path):
    """Two machines with a common cell."""
    return made(tmp_path / "a", "no_adapt", "tent"), made(tmp_path / "b", "no_adapt", "sar")


def test_everything_finished_is_there_and_a_second_time_changes_nothing(two, tmp_path):
    assert len(joined(*two, tmp_path / "out")) == 4, "three cells and a source model"
    first = content(tmp_path / "out")
    assert {**content(two[1]), **first}.keys() == first.keys()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert joined(*two, tmp_path / "out") == []
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_the_order_of_the_folders_does_not_matter(two, tmp_path):
    a, b = two
    joined(a, b, tmp_path / "ab")
    joined(b, a, tmp_path / "ba")
    assert content(tmp_path / "ab") == content(tmp_path / "ba")
    joined(b, a)
    joined(a, b)
    assert {path.split("/")[1] for path in content(a)} == {path.split("/")[1] for path in content(b)}


@pytest.mark.parametrize(
    ("more", "what"), [({"gain": 1e-9}, "dice_disc of image 0"), ({"model": b"x"}, "source models")]
)
def test_other_numbers_of_one_cell_are_refused_by_name_and_nothing_is_copied(tmp_path, more, what):
    a, b = made(tmp_path / "a", "no_adapt", "tent"), made(tmp_path / "b", "tent", **more)
    with pytest.raises(UserError, match=what) as refused:
        joined(a, b, tmp_path / "out")
    (hash_,) = (path.name for path in (b / "cells").iterdir())
    assert any(f"cell {hash_} (tent, source A, seed 0)" in fault for fault in refused.value.faults)
    assert not (tmp_path / "out").exists()


def test_a_source_model_that_is_another_is_refused_even_where_no_cell_is_shared(tmp_path):
    a, b = made(tmp_path / "a", "tent"), made(tmp_path / "b", "sar", model=b"other weights")
    with pytest.raises(UserError, match="source model 0123 is not the same everywhere"):
        joined(a, b, tmp_path / "out")


def test_times_and_machines_may_differ_and_unfinished_cells_are_left_out(two, tmp_path):
    a, b = two
    for path in (b / "cells").glob("*/per_image.csv"):
        path.write_text(path.read_text().replace(",0.5\n", ",0.7\n"))
    cell = next((a / "cells").iterdir())
    (cell / "snapshot.pt").write_bytes(b"left")
    unfinished = a / "cells/0123456789abcdef"
    unfinished.mkdir()
    CellFolder(unfinished).start({})
    damaged = planned(a, "diga", {"method": "diga"}).cell
    finish(damaged, lambda *_: 50.0)
    (damaged.folder().path / "per_image.csv").write_text("half")
    found = plan_merge([a, b], tmp_path / "out")
    assert (len(found.cells), found.unfinished) == (3, 2)
    assert len([*merge(found)]) == 4
    assert not [*(tmp_path / "out").rglob("snapshot.pt")]


def test_a_merge_that_is_killed_anywhere_leaves_nothing_that_counts_and_is_not_whole(two, tmp_path, monkeypatch):
    joined(*two, tmp_path / "whole")
    replace, steps = os.replace, len(content(tmp_path / "whole"))
    for killed in range(steps + 1):
        out, left = tmp_path / f"out{killed}", iter(range(killed))

        def until(source, target, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", until)
        if killed < steps:
            with pytest.raises(KeyboardInterrupt):
                joined(*two, out)
        else:
            joined(*two, out)
        monkeypatch.setattr(os, "replace", replace)
        for path in (out / "cells").glob("*"):
            done = CellFolder(path).finished(thoroughly=True) is not None
            assert done == (CellFolder(path).status() is not None), "finished and whole, or as if never begun"
        joined(*two, out)
        assert content(out) == content(tmp_path / "whole")


def test_an_unfinished_or_damaged_cell_gives_way_to_a_finished_one(two, tmp_path):
    a, b = two
    out = shutil.copytree(a, tmp_path / "out")
    for path, status in zip(sorted((out / "cells").iterdir()), ("running", "done"), strict=True):
        record = json.loads((path / "status.json").read_text())
        (path / "status.json").write_text(json.dumps({**record, "status": status}))
        (path / "summary.json").write_text("{}")
    joined(a, b, out)
    assert all(CellFolder(path).finished() for path in (out / "cells").iterdir())


@pytest.mark.parametrize("place", [".", "below", "link"])
def test_a_folder_is_not_merged_into_itself(two, tmp_path, place):
    (tmp_path / "link").symlink_to(two[0])
    into = tmp_path / "link" if place == "link" else two[0] / place
    with pytest.raises(UserError, match=r"the same folder|inside it"):
        plan_merge(two, into)


def test_the_command_counts_what_it_copies(two, tmp_path, capsys):
    main(["merge", *map(str, two), str(tmp_path / "out"), "--dry-run"])
    assert not (tmp_path / "out").exists()
    main(["merge", *map(str, two), str(tmp_path / "out")])
    main(["merge", *map(str, two), str(tmp_path / "out")])
    dry, first, second = capsys.readouterr().out.splitlines()
    assert dry.startswith("to copy: 3 cells and 1 source model into ")
    assert re.fullmatch("copied 3 cells and 1 source model into .*out; 0 cells there before", first)
    assert re.fullmatch("copied 0 cells and 0 source models into .*out; 3 cells there before", second)
    with pytest.raises(SystemExit):
        main(["merge", str(tmp_path / "nowhere"), str(tmp_path / "out")])
    assert "nowhere is no results folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["merge", str(two[0]), "results_root=out"])
    assert "'results_root=out' is no folder: name it without results_root=" in capsys.readouterr().err
