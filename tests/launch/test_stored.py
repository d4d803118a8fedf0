"""Cells in a results folder: read back as what they are, filtered, put into tables by what differs, listed, removed."""

import csv
import io
import json
from dataclasses import asdict

import pytest
from pydantic import BaseModel
from rich.console import Console

from made_tables import base, changed, finish, planned
from tta_bench.adaptation.provenance import code_of
from tta_bench.cell import Cell
from tta_bench.cli import main
from tta_bench.errors import UserError
from tta_bench.launch import cleaning
from tta_bench.launch.check import find_jobs
from tta_bench.launch.cleaning import remove, unneeded
from tta_bench.launch.composition import composer
from tta_bench.launch.stored import cell_of, facts, fits, parse_where, read_last_sweep, record_of, remember_sweep
from tta_bench.launch.sweeps import groups, row_labels, split_sentences
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.records.store import CellFolder
from tta_bench.report.listing import COLUMNS, cells_table, listed
from tta_bench.report.sweep import summary, tables
from tta_bench.runtime.values import typed

LR = "method.learning_rate"


def stored(root, method, source="A", seed=0, **values):
    """A finished cell, begun as a run begins it."""
    values = {key.replace("__", "."): value for key, value in values.items()}
    cell = planned(root, method, {"method": method, **values}, source, seed).cell
    finish(cell, lambda target, index: 50.0 + len(method) + index + (target == "D"))
    status = json.loads((cell.folder().path / "status.json").read_text())
    cell.folder().start({"hash": cell.folder().hash, **record_of(cell), "results_root": "elsewhere"})
    (cell.folder().path / "status.json").write_text(json.dumps(status))
    return cell


@pytest.mark.parametrize("method", METHODS.names())
def test_a_cell_of_any_method_is_read_back_as_the_cell_that_it_is(method, tmp_path):
    for values in ({}, {"protocol.order": 2, "data.limit": 3}, {"checkpoint": tmp_path / "given.ckpt"}):
        options = {"method": {"name": method, **asdict(default_options(method))}, "results_root": tmp_path}
        branches = tuple(METHODS.get(method).branches(default_options(method)))
        values = {**values, "model.branches": branches, "data.image_size": 128}
        cell = Cell.of(changed(base().model_copy(update=options), values), 1)
        again = cell_of(json.loads(json.dumps(record_of(cell))), tmp_path)
        assert again.folder() == cell.folder()
        assert again.identity() == cell.identity()


def test_filters_take_alternatives_patterns_numbers_and_members_of_lists(tmp_path):
    cell = facts(planned(tmp_path, "tent", {"method": "tent", LR: 1e-3}).cell)
    for text in ("method=tent", "method=sar,tent,source=A", "method=t*", f"{LR}=1e-3", "target=D", "data.limit=null"):
        assert fits(parse_where([text]), cell), text
    for text in ("method=sar", "method=tent,source=B", f"{LR}=1e-2", "target=A", "data=folder"):
        assert not fits(parse_where([text]), cell), text
    with pytest.raises(UserError, match="write KEY=VALUE"):
        parse_where(["tent"])


def test_a_key_that_has_its_default_is_found_by_it_whether_it_is_written_down_or_not(tmp_path):
    config = planned(tmp_path, "", {"method": "tent"}).cell.config
    of = facts(Cell.of(config, 0))
    for section in ("data", "model", "protocol", "training", "predict", "diagnostics"):
        part = getattr(config, section)
        for key in [key for key, field in type(part).model_fields.items() if not field.exclude]:
            value = getattr(part, key)
            if not isinstance(value, tuple | dict | BaseModel):
                assert fits(parse_where([f"{section}.{key}={typed(value)}"]), of), key
    left_out = "precision=f32,adapt=null,route=null,stages=null,checkpoint=null,protocol.evaluation=all"
    assert fits(parse_where([left_out, "method.preset=uniform,model.channels=3,predict.nest=false"]), of)
    for key, value in {"precision": "bf16", "predict.nest": True, "protocol.evaluation": "held_out"}.items():
        other = facts(Cell.of(changed(config, {key: value}), 0))
        default = next(text for text in (*left_out.split(","), "predict.nest=false") if text.startswith(key))
        assert not fits(parse_where([default]), other)
        assert fits(parse_where([f"{key}={typed(value)}"]), other)


def test_rows_are_called_by_what_differs_and_once_where_it_differs_together(tmp_path):
    variants = [{"method": "bn_only"}, {"method": "tent"}, {"method": "tent", LR: 0.01, "method.momentum": 0.9}]
    cells = [planned(tmp_path, "", values, source).cell for values in variants for source in "AB"]
    assert list(dict.fromkeys(row_labels(cells))) == ["bn_only", "tent learning_rate=1e-4", "tent learning_rate=0.01"]
    assert set(row_labels([cell for cell in cells if cell.config.method.get("momentum") != 0.9])) == {"bn_only", "tent"}


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [("protocol.reset", "image", "protocol.reset"), ("data.limit", 2, "data.limit"), ("target", ("C",), "target=[C]")],
)
def test_what_cannot_be_compared_is_in_tables_of_its_own(tmp_path, key, value, told):
    cells = [
        planned(tmp_path, "", {"method": method, **more}, "A").cell
        for more in ({}, {key: value})
        for method in ("tent", "no_adapt")
    ]
    found = groups(cells, "sweep", "")
    assert [[each.row for each in group.plan.cells] for group in found] == [["no_adapt", "tent"]] * 2
    assert all(told.partition("=")[0] in group.settings for group in found)
    assert told in split_sentences(found)[0]
    assert {group.plan.experiment.reference for group in found} == {"no_adapt"}


@pytest.mark.parametrize(
    ("key", "value", "row"),
    [
        ("precision", "bf16", "tent precision=bf16"),
        ("diagnostics.empirical_gradient", True, "tent diagnostics.empirical_gradient=true"),
        (LR, 0.01, "tent learning_rate=0.01"),
        ("protocol.reset", "image", None),
        ("predict.nest", True, None),
    ],
)
def test_whatever_is_swept_has_a_row_or_a_table_of_its_own(tmp_path, key, value, row):
    cells = [planned(tmp_path, "", {"method": "tent", **more}, "A").cell for more in ({}, {key: value})]
    found = groups(cells, "sweep", "")
    places = [(group.settings, each.row) for group in found for each in group.plan.cells]
    assert len(set(places)) == len(cells)
    assert (row is None) == (len(found) == len(cells))
    assert row is None or ("", row) in places


def test_seeds_orders_and_sources_are_one_row(tmp_path):
    variants = [{"training.seed": 0}, {"training.seed": 1}, {"protocol.order": 3}]
    cells = [planned(tmp_path, "", {"method": "tent", **values}, source).cell for values in variants for source in "AB"]
    (group,) = groups(cells, "sweep", "")
    assert {each.row for each in group.plan.cells} == {"tent"}
    assert (group.settings, split_sentences([group])) == ("", [])


def test_cells_are_listed_with_what_differs_from_the_defaults(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    root = f"results_root={tmp_path}"
    cells = [
        stored(tmp_path, "tent"),
        stored(tmp_path, "tent", "B", method__learning_rate=0.01),
        stored(tmp_path, "sar"),
    ]
    cells[2].folder().fail(ValueError("no"))
    main(["cells", root, "--csv"])
    rows = {row["hash"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert rows.keys() == {cell.folder().hash for cell in cells}
    assert rows[cells[0].folder().hash]["differs"] == "data.image_size=64"
    assert rows[cells[1].folder().hash]["differs"] == "learning_rate=0.01 data.image_size=64"
    assert [rows[cell.folder().hash]["status"] for cell in cells] == ["done", "done", "failed"]
    assert float(rows[cells[0].folder().hash]["dice"]) == pytest.approx(55.5)
    main(["cells", root, "--where", "status=done,source=A"])
    lines = capsys.readouterr().out.splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith(cells[0].folder().hash))
    assert lines[at].split()[1:3] == ["tent", "A"]
    assert lines[at + 1].strip() == "data.image_size=64"
    assert not any(line.startswith(cells[1].folder().hash) for line in lines)
    assert max(map(len, lines)) <= 80
    for where, sentence in (("methd=tent", "did you mean 'method'?"), ("method=grata", "no cell in")):
        with pytest.raises(SystemExit):
            main(["cells", root, "--where", where])
        assert sentence in capsys.readouterr().err


def test_cells_are_chosen_by_every_column_that_their_list_has(tmp_path, capsys):
    root = f"results_root={tmp_path}"
    adapted = {"adapt": {"name": "adabn", "batch_size": 8}, "training__seed": 3, "protocol__order": 2}
    for cell in (stored(tmp_path, "sar"), stored(tmp_path, "tent", "B", seed=1, **adapted)):
        path = cell.folder().path / "summary.json"
        shared = {"packed": 2} if cell.config.adapt else {}
        path.write_text(json.dumps(json.loads(path.read_text()) | shared))

    def rows(*where):
        main(["cells", root, "--csv", *where])
        return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    for row in rows():
        assert row.keys() == {*COLUMNS}
        for column in {*COLUMNS} - {"differs"}:
            found = rows("--where", f"{column}={row[column]}")
            assert row in found, column
            assert all(other[column] == row[column] or column == "target" for other in found)
    assert [row["packed"] for row in rows("--where", "packed=true")] == ["True"]
    assert rows("--where", "method=adabn*") == rows("--where", "method=tent")
    with pytest.raises(SystemExit):
        rows("--where", "differs=learning_rate=1e-3")
    assert "--where differs=: filter by the keys that it shows, for example" in capsys.readouterr().err


@pytest.mark.parametrize("width", [80, 200])
def test_what_all_listed_cells_share_is_told_once_and_no_word_is_broken(tmp_path, width):
    long = {"diagnostics.empirical_gradient": True, LR: 0.01, "data.limit": 3, "source": "RIM_ONE_r3"}
    cells = [
        planned(tmp_path, "", {"method": method, **more}).cell for method in ("tent", "grata") for more in ({}, long)
    ]
    cells.append(planned(tmp_path, "", {"method": "tent", "adapt": {"name": "adabn", "batch_size": 8}}).cell)
    cells[-1].folder().start({})
    with composer() as hydra:
        found = listed(cells, hydra)
    console = Console(file=io.StringIO(), width=width)
    console.print(cells_table(found, width))
    text = console.file.getvalue()
    assert text.splitlines()[0].rstrip() == "all cells: data.image_size=64"
    words = text.split()
    assert words.count("data.image_size=64") == 1
    assert not any(word.startswith("target=") for word in words)
    expected = {word for one in found for word in (*one.differs, one.cell.folder().hash, one.cell.config.source)}
    assert expected <= {*words}
    assert max(map(len, text.splitlines())) <= width


def test_cells_of_one_source_are_told_apart_by_their_targets(tmp_path):
    cells = [planned(tmp_path, "", {"method": "tent", "target": target}).cell for target in (("B",), ("B", "C"))]
    console = Console(file=io.StringIO(), width=80)
    with composer() as hydra:
        console.print(cells_table(listed(cells, hydra)))
    assert {"target=B", "target=B,C"} <= {*console.file.getvalue().split()}


def test_several_tables_of_one_sweep_show_mean_and_spread_below_each_other(tmp_path):
    cells = [
        planned(tmp_path, "", {"method": method, "training.seed": seed, **more}).cell
        for method in ("no_adapt", "tent")
        for seed in (0, 1)
        for more in ({}, {"protocol.steps": 2})
    ]
    for number, cell in enumerate(cells):
        finish(cell, lambda target, index, number=number: 50.0 + number)
    console = Console(file=io.StringIO(), width=120)
    console.print(summary(tables(groups(cells, "sweep", ""))))
    printed = console.file.getvalue()
    assert printed.count("±1.41") == 4, "two rows of two tables"
    assert "\\n" not in printed


def test_a_cell_that_cannot_be_read_is_told_and_hides_no_other(tmp_path, capsys):
    stored(tmp_path, "tent")
    for name, text in (("a" * 16, "method: {name: gone}"), ("b" * 16, "- 1"), ("c" * 16, "a: [")):
        (tmp_path / f"cells/{name}").mkdir()
        (tmp_path / f"cells/{name}/config.yaml").write_text(text)
    main(["cells", f"results_root={tmp_path}", "--csv"])
    out = capsys.readouterr().out
    assert out.count("warning: ") == 3
    assert ",tent," in out


def test_cells_are_reported_by_hash_and_by_filter_with_their_reference(tmp_path, capsys):
    root = f"results_root={tmp_path}"
    cells = [stored(tmp_path, method, source) for method in ("no_adapt", "tent", "sar") for source in "AB"]
    main(["report", "--where", "method=tent,source=A,B", root])
    out = capsys.readouterr().out
    assert [*tmp_path.glob("reports/cells_method_tent_source_A_B_*/index.html")]
    lines = out.partition("cells: Dice")[2].splitlines()
    assert [line.split()[0] for line in lines[4:6]] == ["no_adapt", "tent"]
    main(["report", cells[2].folder().hash[:8], cells[4].folder().hash, root, "--out", str(tmp_path / "own")])
    lines = capsys.readouterr().out.partition("cells: Dice")[2].splitlines()
    assert {line.split()[0] for line in lines[4:7]} == {"no_adapt", "tent", "sar"}
    for words, sentence in (
        (["0000", root], "0000 is no cell of"),
        ([root], "what is to be reported?"),
        (["--last", "--where", "method=tent", root], "choose one of them"),
        (["--last", root], "no sweep is known here"),
        (["--where", "method=tent", "data.limit=3"], "'data.limit=3': cells that exist have their settings"),
    ):
        with pytest.raises(SystemExit):
            main(["report", *words])
        assert sentence in capsys.readouterr().err


def test_the_last_sweep_is_reported_with_its_missing_cells(tmp_path, capsys):
    words = ["+method=tent", "method.learning_rate=1e-3,1e-2", "source=A", "target=[C,D]", "data.image_size=64"]
    remember_sweep(["-m", *words], find_jobs([*words, f"results_root={tmp_path}"]), None, None)
    assert len(read_last_sweep(tmp_path)["cells"]) == 3, "the reference once"
    stored(tmp_path, "no_adapt")
    stored(tmp_path, "tent", method__learning_rate=1e-2)
    main(["report", "--last", f"results_root={tmp_path}"])
    out = capsys.readouterr().out
    assert "last: Dice in percent, 1 cells missing" in out
    assert "tent learning_rate=1e-3" in " ".join(out.split())


# clean


def test_only_leftovers_and_what_nothing_needs_goes_and_no_finished_cell_unless_told(tmp_path):
    cells = {method: stored(tmp_path, method) for method in ("tent", "sar", "diga", "grata")}
    folder = cells["tent"].folder()
    folder.snapshot.write_bytes(b"old")
    (folder.path / ".summary.json.123").write_bytes(b"half")
    cells["diga"].folder().fail(ValueError("no"))
    cells["grata"].folder().fail(ValueError("no"))
    (tmp_path / "cells/notes").mkdir()
    (tmp_path / "cells/notes/mine.txt").write_text("a folder of one's own stays")
    items = unneeded(tmp_path, lambda: [cells["grata"]])
    assert {item.path for item in items} == {
        folder.snapshot,
        folder.path / ".summary.json.123",
        cells["diga"].folder().path,
    }
    with cells["diga"].folder().locked():
        assert cells["diga"].folder().path not in {item.path for item in unneeded(tmp_path, lambda: [])}
    assert len([*remove(tmp_path, items)]) == 3
    assert unneeded(tmp_path, lambda: [cells["grata"]]) == []
    assert all(cells[method].finished() for method in ("tent", "sar"))
    told = unneeded(tmp_path, lambda: [cells["grata"]], {cells["sar"].folder().hash}, "told")
    assert [(item.path, item.why) for item in told] == [(cells["sar"].folder().path, "told")]


def test_the_source_model_of_a_search_stays(tmp_path):
    models = [tmp_path / "source_models" / name for name in ("searched", "spare")]
    for model in models:
        model.mkdir(parents=True)
        (model / "model.ckpt").write_bytes(b"weights")
    outcome = tmp_path / "searches/0123/outcome.yaml"
    outcome.parent.mkdir(parents=True)
    outcome.write_text(f"source_checkpoint: {{path: {models[0] / 'model.ckpt'}, sha256: abc}}")
    assert [item.path for item in unneeded(tmp_path, lambda: [])] == models[1:]
    outcome.write_text("source_checkpoint: [damaged")
    assert [item.path for item in unneeded(tmp_path, lambda: [])] == models


def test_a_removal_that_is_killed_leaves_no_half_cell(tmp_path, monkeypatch):
    cell = stored(tmp_path, "tent")
    items = unneeded(tmp_path, lambda: [], {cell.folder().hash}, "told")
    monkeypatch.setattr(cleaning.shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        list(remove(tmp_path, items))
    monkeypatch.undo()
    assert CellFolder(cell.folder().path).status() is None
    (left,) = unneeded(tmp_path, lambda: [])
    assert left.why == "left by a removal that was stopped"
    assert [*remove(tmp_path, [left])] == [left]
    assert not (tmp_path / cleaning.TRASH).exists()


def test_clean_shows_what_goes_and_asks_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cleaning, "needed_cells", lambda *_: [])
    cell, other = stored(tmp_path, "tent"), stored(tmp_path, "sar")
    root = f"results_root={tmp_path}"
    main(["clean", root])
    assert capsys.readouterr().out.startswith("nothing to remove")
    summary = json.loads((other.folder().path / "summary.json").read_text()) | {"code": "old", "code_modules": {}}
    (other.folder().path / "summary.json").write_text(json.dumps(summary))
    assert code_of(other.config)["code"] != "old"
    main(["clean", root, "--stale"])
    out = capsys.readouterr().out
    assert str(other.folder().path) in out
    assert str(cell.folder().path) not in out
    assert "nothing was removed; --yes does not ask" in out
    main(["clean", root, "--stale", "--yes"])
    assert "removed 1 of 1" in capsys.readouterr().out
    assert not other.folder().path.exists()
    assert cell.finished()
