"""Markdown, CSV and LaTeX: the same numbers, every label as it is, and nothing that hides what is missing."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from made_tables import changed, finish, made_plan, planned, simple_plan, texts_of
from tta_bench.adaptation.provenance import metric_code
from tta_bench.cell import Cell
from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.experiment_files import read_experiments
from tta_bench.launch.experiments import PlannedCell
from tta_bench.metrics.base import METRICS
from tta_bench.metrics.dice import dice_score
from tta_bench.report.checks import comparable_with_paper
from tta_bench.report.formats import formats
from tta_bench.report.formats.csv import write as csv_text
from tta_bench.report.formats.latex import latex_text
from tta_bench.report.formats.latex import write as latex
from tta_bench.report.formats.markdown import write as markdown
from tta_bench.report.notes import notes
from tta_bench.report.tables import build_table
from tta_bench.report.text import DASH, number, p_value, ranks
from tta_bench.report.warnings import warnings
from tta_bench.report.write import summary_table

HARD = r"100% of a_b & $x^2$ #1 {~} \ relu max(0,x) | η<β> é 日 [1]"


def lines_of(text, label):
    return [line for line in text.splitlines() if line.startswith(f"| {label} |")]


@pytest.fixture
def table(tmp_path):
    """Three rows on two sources; the last has two seeds, and one of its cells is missing."""

    def gain(source, seed, target, index):
        return 5.0 + seed

    paper = {"no_adapt": {"A": 60.0, "B": 61.0, "average": 60.5}, "grata": {"A": 70.0, "B": 71.0, "average": 70.5}}
    gains = {"no_adapt": 0.0, "bn_only": 2.0, "grata": gain}
    plan = simple_plan(tmp_path, gains, seeds=(0, 1), paper=paper, controls=("bn_only",), name="made_up")
    return build_table(plan)


# text


@pytest.mark.parametrize(("value", "text"), [(1.005, "1.00"), (None, DASH), (math.nan, DASH), (-0.5, "-0.50")])
def test_numbers_have_two_digits_and_a_dash_for_none(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("p", "text"), [(1.0, "1.000"), (0.0314, "0.031"), (0.001, "0.001"), (0.00099, "<0.001"), (math.nan, DASH)]
)
def test_small_p_values_are_bounds(p, text):
    assert p_value(p) == text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 3.0, 2.0], (0, 1, 2)),
        ([3.001, 3.004, 2.0, 1.0], (1, 1, 2, 0)),
        ([None, 3.0, math.nan, 4.0], (0, 2, 0, 1)),
        ([None, 3.0], (0, 0)),
        ([], ()),
    ],
)
def test_best_and_second_best_are_of_the_shown_numbers(values, expected):
    assert ranks(values, dice_score) == expected


def test_where_less_is_better_the_smallest_is_the_best():
    assert ranks([1.0, 3.0, 2.0, None], METRICS.get("hd95")) == (1, 0, 2, 0)


def test_every_module_of_a_format_is_a_file_of_the_report():
    assert list(formats()) == ["table.md", "table.csv", "table.tex", "audit.csv", "index.html", "targets.csv"]


# Markdown


def test_markdown_marks_the_best_bold_and_the_second_underlined(table):
    text = markdown(table)
    assert "| row | A | paper | B | paper | average | paper |" in text
    assert lines_of(text, "grata")[0].startswith("| grata | **61.30 ± 0.71** | **70.00** | **61.30 ± 0.71** |")
    assert lines_of(text, "bn_only")[0].startswith(f"| bn_only | <u>57.80</u> | {DASH} |")
    assert lines_of(text, "no_adapt")[0].startswith("| no_adapt | 55.80 | <u>60.00</u> |")


def test_markdown_has_differences_p_values_and_costs(table):
    text = markdown(table)
    assert r"| row | minus no_adapt \[95 %\] | p (Holm) | minus bn_only \[95 %\] | p (Holm) |" in text
    assert r"| bn_only | +2.00 \[+2.00, +2.00\] | 0.062 |" in text
    assert "| row | ms per image | peak MB | forwards | backwards |" in text
    assert "| grata | 500.0 | 100 | 2.0 | 1.0 |" in text


@pytest.fixture
def hard(tmp_path):
    """A label with all that markup could trip over, and failures and gaps beside it."""
    cells = [planned(tmp_path, label, {"method": name}) for label, name in (("no_adapt", "no_adapt"), (HARD, "tent"))]
    cells.append(planned(tmp_path, "lost", {"method": "grata"}))
    finish(cells[0].cell, lambda *_: 50.0)
    finish(cells[1].cell, lambda target, index: 51.0 + index, skipped_updates=4, packed=3)
    return build_table(made_plan(cells, rows={entry.row: {"method": "tent"} for entry in cells}, name="hard_1"))


def test_a_label_breaks_no_row_of_markdown(hard):
    rows = [line for line in markdown(hard).splitlines() if line.startswith("| 100% of")]
    assert len(rows) == 5, "numbers, differences, costs, classes and targets"
    head = next(line for line in markdown(hard).splitlines() if line.startswith("| row |"))
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == head.count("|")
    assert r"max(0,x) \| η\<β>" in rows[0]


def test_missing_and_skipped_are_said_in_the_warnings(hard):
    text = "\n".join(warnings(hard))
    assert f"Updates skipped because a loss or gradient was not finite: {HARD} 4." in text
    assert "1 of 3 cells have no results yet: lost (1 missing)." in text
    assert f"| lost | {DASH} |" in markdown(hard)
    assert f"Several cells shared batches (launch.pack): {HARD}. Time" in "\n".join(notes(hard))


def test_the_notes_say_how_to_read_the_numbers(table):
    text = "\n".join(notes(table))
    assert "mean over images, then classes (disc, cup), then target domains" in text
    repeats = "Repeats: 2; ± is the sample standard deviation over the 2 seeds of the random draws."
    assert f"Images per source model: A 6, B 6. {repeats}" in text
    assert str(summary_table(table).caption) == repeats.removeprefix("Repeats: 2; ")
    mean = "paired on the same 6 images, each with its mean over the source models, 95 % bootstrap interval"
    assert f"Minus no_adapt: {mean}" in text
    assert "Holm-corrected for 2 rows" in text
    assert "Minus bn_only: paired" in text
    assert "only the order of the rows can be compared" in text
    assert f"Protocol {table.protocol_hash}: reset target, steps 1" in text
    assert "missing" not in text
    assert "launch.pack" not in text


@pytest.fixture(scope="module")
def fundus(tmp_path_factory):
    """The paper's images, network and protocol, from source D to all other domains."""
    root = tmp_path_factory.mktemp("fundus")
    for prefix in ("RIM_ONE_r3", "REFUGE", "ORIGA", "REFUGE_Valid", "Drishti_GS"):
        (root / f"{prefix}_train.csv").touch()
    (config,) = check(["+method=no_adapt", "data=fundus", f"data.root={root}", "source=D"], multirun=False)
    return config.model_copy(update={"results_root": root})


def table_of(config, **changes):
    """A table of two unfinished rows, the second with changed keys."""
    cells = [PlannedCell(label, Cell.of(config, 0)) for label in ("no_adapt", "tent")]
    cells[1] = PlannedCell("tent", Cell.of(changed(config, {"method": "tent", **changes}), 0))
    paper = {"no_adapt": {"D": 54.07}, "tent": {"D": 60.0}}
    return build_table(made_plan(cells, paper=paper, overrides=[f"{key}=" for key in changes]))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"protocol.name": "mine", "data.seed": 1},
        {"training.epochs": 3, "training.seed": 1, "model.encoder_weights": None},
        {"checkpoint": Path("mine.ckpt"), "model.branches": ("rotation",)},
        {"target": ("E", "C", "B", "A")},
    ],
)
def test_the_paper_is_comparable_however_the_source_model_was_trained(fundus, changes):
    table = table_of(changed(fundus, changes))
    assert comparable_with_paper(table)
    assert "The paper's numbers" not in "\n".join(notes(table))


@pytest.mark.parametrize(
    "changes",
    [
        {"data.name": "folder"},
        {"data.limit": 24},
        {"data.image_size": 256},
        {"data.classes": {"disc": (1, 2)}},
        {"data.domains": {"A": "RIM_ONE_r3", "B": "REFUGE", "C": "ORIGA", "D": "REFUGE_Valid", "E": "mine"}},
        {"protocol.reset": "image"},
        {"protocol.steps": 2},
        {"protocol.predict": "before"},
        {"protocol.order": 1},
        {"protocol.threshold": 0.4},
        {"target": ("C",)},
        {"model.name": "unet"},
    ],
)
def test_the_paper_is_not_comparable_with_other_images_targets_protocol_or_network(fundus, changes):
    table = table_of(changed(fundus, changes))
    assert not comparable_with_paper(table)
    assert "of other images or settings" in "\n".join(notes(table))


@pytest.mark.parametrize("changes", [{"protocol.steps": 2}, {"model.name": "unet"}])
def test_a_single_row_with_another_setting_is_enough(fundus, changes):
    assert not comparable_with_paper(table_of(fundus, **changes))


def test_a_mean_over_fewer_seeds_than_planned_is_marked(tmp_path):
    plan = simple_plan(tmp_path, {"no_adapt": 0.0, "grata": 1.0}, ("A",), seeds=(0, 1))
    lost = plan.cells[-1].cell
    lost.folder().start({})
    table = build_table(plan)
    assert r"56.80\*" in lines_of(markdown(table), "grata")[0]
    assert "*: some repeats are missing." in notes(table)


def test_images_left_out_are_counted_in_the_notes(tmp_path):
    plan = simple_plan(tmp_path, {"no_adapt": 0.0, "tent": 1.0}, ("A",))
    path = plan.cells[1].cell.folder().path / "per_image.csv"
    *lines, last = path.read_text().splitlines()
    *others, _, position, seconds = last.split(",")
    path.write_text("\n".join([*lines, ",".join([*others, "", position, seconds])]) + "\n")
    text = "\n".join(notes(build_table(plan)))
    assert "tent minus no_adapt: 1 excluded because a value is missing or not finite." in text


# CSV


def test_csv_has_a_line_per_row_and_source_and_the_average_with_all_digits(table):
    lines = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert [(line["row"], line["source"]) for line in lines[:3]] == [
        (table.rows[0].label, s) for s in ("A", "B", "average")
    ]
    grata = {line["source"]: line for line in lines if line["row"] == "grata"}
    expected = next(row for row in table.rows if row.label == "grata")
    assert float(grata["A"]["dice"]) == expected.results["A"].value
    assert float(grata["average"]["std"]) == expected.average.std
    assert float(grata["average"]["vs_reference_mean"]) == expected.vs_reference.mean
    assert grata["A"]["vs_reference_mean"] == "", "of the whole row, not of a source"
    assert float(grata["B"]["minus_paper"]) == pytest.approx(expected.results["B"].value - 71)
    assert {line["protocol_hash"] for line in lines} == {table.protocol_hash}


def test_csv_leaves_missing_numbers_empty_and_labels_whole(hard):
    lines = list(csv.DictReader(io.StringIO(csv_text(hard))))
    lost = next(line for line in lines if line["row"] == "lost")
    assert (lost["dice"], lost["n"], lost["missing_seeds"]) == ("", "0", "1")
    assert HARD in {line["row"] for line in lines}


# LaTeX


def test_latex_marks_the_best_and_puts_the_controls_behind_a_rule(table):
    text = latex(table)
    assert r"grata & \textbf{61.30 \ensuremath{\pm} 0.71} & \textbf{70.00}" in text
    assert r"\midrule" + "\n" + r"\raggedright bn\_only & \underline{57.80} & --" in text
    assert r"\label{tab:made-up}" in text


def test_latex_text_has_no_mark_with_a_meaning_left():
    assert latex_text(r"a_b & 5% #1 {x} ~ ^ \ λ") == (
        r"a\_b \& 5\% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \ensuremath{\lambda}"
    )
    assert latex_text("日") == "U+65E5"


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Five sources and their average, each with a deviation over two seeds and the paper's number."""

    def gain(source, seed, target, index):
        return -20.0 + 3 * seed + 7 * index

    names = (*"ABCDE", "average")
    paper = {label: dict.fromkeys(names, 70.0) for label in ("no_adapt", "grata")}
    root = tmp_path_factory.mktemp("wide")
    gains = {"no_adapt": 0.0, "bn_only": 2.0, "grata": gain}
    return build_table(simple_plan(root, gains, names[:-1], seeds=(0, 1), paper=paper))


def with_labels(table, name):
    """The last row repeated under the labels of an experiment."""
    experiment = read_experiments()[name]
    repeated = [replace(table.rows[-1], label=label) for label in experiment.rows]
    return replace(table, name=name, description=experiment.description, rows=tuple(repeated))


def test_latex_has_a_table_per_group_of_columns_and_the_notes_below(wide):
    text = latex(with_labels(wide, "table1"))
    captions = re.findall(r"Part (.*?)\.}\\label{(.*?)}", text)
    assert captions == [
        ("1 of 9: Dice in percent", "tab:table1"),
        ("2 of 9: differences", "tab:table1-differences"),
        ("3 of 9: costs", "tab:table1-costs"),
        ("4 of 9: classes", "tab:table1-classes"),
        *((f"{part} of 9: source {name}", f"tab:table1-{part}") for part, name in enumerate("ABCDE", 5)),
    ]
    assert text.count(r"\begin{longtable}") == text.count(r"\end{longtable}") == 9
    assert text.rindex(r"\end{longtable}") < text.index("Dice in percent: mean over images")


def compile_latex(text, folder):
    """The output of pdflatex."""
    located = subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, text=True)
    if not located.stdout.strip():
        pytest.skip("booktabs is not installed")
    source = "\\documentclass{article}\n\\usepackage{booktabs,longtable}\n\\begin{document}\n" + text
    (folder / "table.tex").write_text(source + "\\end{document}\n", encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "table.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120)
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, output
    assert (folder / "table.pdf").stat().st_size > 1000
    return output


needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


@needs_latex
@pytest.mark.parametrize("which", ["table", "hard"])
def test_latex_compiles_with_booktabs_and_longtable(which, request, tmp_path):
    output = compile_latex(latex(request.getfixturevalue(which)), tmp_path)
    assert "Overfull" not in output or which == "hard"


@needs_latex
@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table4", "table5", "extended"])
def test_latex_of_many_rows_or_long_labels_is_no_wider_than_the_page(name, wide, tmp_path):
    assert "Overfull" not in compile_latex(latex(with_labels(wide, name)), tmp_path)


def test_a_table_of_another_metric_says_so_in_every_format_and_has_no_paper(tmp_path):
    """The present summary and rows under other names."""
    metric = METRICS.get("hd95")
    paper = {"no_adapt": {"A": 60.0}, "tent": {"A": 70.0}}
    plan = simple_plan(tmp_path, {"no_adapt": 0.0, "tent": 1.0}, ("A",), paper=paper)
    with pytest.raises(UserError, match="has no hd95: 'tta-bench evaluate --metrics hd95' takes it"):
        build_table(plan, metric=metric)
    for entry in plan.cells:
        folder = entry.cell.folder().path
        summary = json.loads((folder / "summary.json").read_text())
        for part in (summary, *summary["targets"].values()):
            part |= {key.replace("dice", "hd95"): value for key, value in part.items() if key.startswith("dice")}
        summary["metrics"] = {"dice": "", "hd95": metric_code("hd95")}
        (folder / "summary.json").write_text(json.dumps(summary))
        heading, *lines = (folder / "per_image.csv").read_text().splitlines()
        names = [name for name in heading.split(",") if name.startswith("dice")]
        places = [heading.split(",").index(name) for name in names]
        lines = [",".join([line, *(line.split(",")[place] for place in places)]) for line in lines]
        heading = ",".join([heading, *(name.replace("dice", "hd95") for name in names)])
        (folder / "per_image.csv").write_text("\n".join([heading, *lines]) + "\n")
    table = build_table(plan, metric=metric)
    texts = texts_of(table)
    assert "HD95 in px: mean over images" in texts["table.md"]
    assert lines_of(texts["table.md"], "no_adapt")[0].startswith("| no_adapt | **")
    assert {"hd95", "hd95_disc"} < set(texts["table.csv"].splitlines()[0].split(","))
    assert "Part 1 of 5: HD95 in px (lower is better)." in texts["table.tex"]
    assert "HD95 in px per source domain" in texts["index.html"]
    assert "bold: the lowest of a column, which is best" in texts["index.html"]
    assert not any("60.00" in text for text in texts.values()), "the paper prints Dice"
