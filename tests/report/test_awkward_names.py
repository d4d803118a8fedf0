"""Names come out of every format of a report as they are, and none is taken for the mean."""

import csv
import html
import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from awkward import NAMES, csv_rows
from made_tables import finish as finish_made
from made_tables import made_plan, planned, simple_plan
from tta_bench.errors import shown
from tta_bench.metrics.dice import dice_score
from tta_bench.report.cells import learned_from
from tta_bench.report.console import cell_table
from tta_bench.report.formats.csv import write as csv_text
from tta_bench.report.formats.html import write as html_page
from tta_bench.report.formats.latex import latex_text
from tta_bench.report.formats.latex import write as latex
from tta_bench.report.formats.markdown import write as markdown
from tta_bench.report.model import Drawings
from tta_bench.report.tables import build_table
from tta_bench.report.write import plan_table, states, status_table, summary_table
from tta_bench.runtime.names import normal


def printed(table):
    console = Console(file=io.StringIO(), width=10_000)
    console.print(table)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return simple_plan(tmp_path_factory.mktemp("made"), {"no_adapt": 0, "tent": 1}, sources=NAMES)


def test_every_name_is_in_every_format(made):
    table = build_table(made)
    assert table.columns == (*NAMES, "((average))"), "no source is called so"
    lines = [line["source"] for line in csv_rows(io.StringIO(csv_text(table), newline="")) if line["row"] == "tent"]
    assert lines == [*NAMES, "((average))"]
    heading = re.split(r" (?<!\\)\| ", markdown(table).split("\n| --- |")[0].splitlines()[-1].removesuffix(" |"))
    unescaped = [re.sub(r"\\([!-/:-@[-`{-~])", r"\1", text) for text in heading]
    assert [text for text in unescaped if text not in ("| row",)] == [*map(shown, NAMES), "((average))"]
    tex = latex(table)
    assert not [name for name in NAMES if f" {latex_text(name)} " not in tex.replace("\\\\\n", " \\\\\n")]
    page = html_page(replace(table, drawings=Drawings([], None, "")))
    assert not [name for name in NAMES if name not in html.unescape(page)]
    for each in (summary_table(table), plan_table(made)):
        text = printed(each)
        assert not [name for name in NAMES if shown(name) not in text]
    assert str(2 * len(NAMES)) in printed(status_table(made, states(made)))


def test_latex_distinguishes_what_it_cannot_set():
    assert latex_text("東京") == "U+6771U+4EAC"
    assert latex_text("Mu\N{COMBINING DIAERESIS}nchen") == normal("München")
    assert latex_text("a--b`") == r"a-{}-b\textasciigrave{}"


@pytest.mark.parametrize("names", [("average", "B"), ("(average)", "average", "mean")])
def test_a_source_called_average_is_not_the_mean(tmp_path, names):
    plan = simple_plan(tmp_path, {"no_adapt": lambda source, *_: 10 * names.index(source)}, sources=names)
    table = build_table(plan)
    (row,) = table.rows
    assert [row.result(name).value for name in names] == [row.results[name].value for name in names]
    assert row.result(table.average_name) == row.average
    lines = {line["source"]: float(line["dice"]) for line in csv.DictReader(io.StringIO(csv_text(table)))}
    assert lines == {name: row.results[name].value for name in names} | {table.average_name: row.average.value}
    assert f"; {table.average_name}: unweighted mean over the sources." in markdown(table).replace("\\", "")


def test_targets_called_like_the_mean_or_like_markup_are_printed_as_they_are(tmp_path):
    names = ("mean", "[red]x", ":smile:", "a\\", "${x}")
    entry = planned(tmp_path, "tent", {"method": "tent", "target": names}, "[bold]s")
    finish_made(entry.cell, lambda *_: 50.0)
    summary, rows = entry.cell.folder().finished()
    for target in summary["targets"].values():
        target["seconds_per_image"] = 0.5
    text = printed(cell_table(dice_score, (summary, rows), None, learned_from(entry.cell.config)))
    assert "source [bold]s, seed 0" in text
    lines = text.split("━\n")[-1].split("─\n")[-1].splitlines()
    assert [line.split()[0] for line in lines[: 2 * len(names) + 1 : 2]] == [*names, "(mean)"]
    assert json.loads((entry.cell.folder().path / "summary.json").read_text())["targets"].keys() == set(names)


def test_an_experiment_plan_is_made_of_the_same_names(tmp_path):
    entry = planned(tmp_path, "no_adapt", {"method": "no_adapt"}, "=cmd|'calc'!A0")
    finish_made(entry.cell, lambda *_: 50.0)
    text = csv_text(build_table(made_plan([entry])))
    assert ",'=cmd|'calc'!A0," in text
    assert entry.cell.folder().finished()[1][0]["source"] == "=cmd|'calc'!A0"
