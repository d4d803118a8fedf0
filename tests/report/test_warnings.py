"""What is weak about a table is said before its numbers, and nothing is said of one that is sound."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from made_tables import EXAMINATION, finish, made_plan, planned, texts_of
from tta_bench.report.console import warning_box
from tta_bench.report.sweep import summary
from tta_bench.report.tables import build_table
from tta_bench.report.warnings import _outside, run_warnings, warnings


def made(
    root,
    dice=60.0,
    in_domain=90.0,
    seeds=(0, 1),
    sources=("A", "B"),
    leave_out=None,
    methods=("tent",),
    found=EXAMINATION,
    **more,
):
    """A table of ``no_adapt`` at 50 percent and methods at ``dice``: a number or of (target, index)."""
    cells = []
    for label in ("no_adapt", *methods):
        for source in sources:
            for seed in seeds:
                entry = planned(root, label, {"method": label, "training.seed": seed}, source)
                cells.append(entry)
                if (label, source, seed) == leave_out:
                    continue
                value = 50.0 if label == "no_adapt" else dice
                name = f"{source}{seed}"
                file = {"path": f"{name}.ckpt", "sha256": name * 32, "dice_in_domain": in_domain}
                file |= {} if found == "never" else {"examination": found}
                values = value if callable(value) else lambda *_, value=value: value
                finish(entry.cell, values, source_checkpoint=file, **(more if label != "no_adapt" else {}))
    return build_table(made_plan(cells, sweep={"training.seed": "0,1"}))


def test_of_a_sound_table_nothing_is_said(tmp_path):
    table = made(tmp_path)
    assert warnings(table) == []
    assert not any("warning" in text.lower().replace(".warnings", "") for text in [*texts_of(table).values()][::2])
    assert warning_box([]) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"leave_out": ("tent", "B", 1)}, "1 of 8 cells have no results yet: tent (1 missing)."),
        ({"skipped_updates": 3}, "Updates skipped because a loss or gradient was not finite: tent 12."),
        ({"seeds": (4,)}, "ONLY ONE TRAINING SEED (4) STANDS BEHIND EVERY NUMBER: another training"),
        (
            {"in_domain": 69.0, "dice": 40.0, "found": "never"},
            "SOURCE MODEL TOO WEAK TO ADAPT: A, training seed 0, has an in-domain Dice of 69.00, below 70; B,",
        ),
        (
            {"found": {**EXAMINATION, "dice": 69.0}},
            "SOURCE MODEL TOO WEAK TO ADAPT: A, training seed 0, has an in-domain Dice of 69.00, below 70, and gains "
            "20.00 points at home by the statistics of each image, above 5: its own have not converged (20 held-out "
            "images); B,",
        ),
        ({"found": "never"}, "Source model not examined: source A, B."),
        ({"found": None}, "Source model not examined: source A, B."),
        ({"found": None, "in_domain": None}, "In-domain Dice is unknown: source A, B."),
        (
            {"found": {**EXAMINATION, "images": "training"}},
            "In-domain Dice is of training images, for none was held out: source A, B.",
        ),
        (
            {"dice": 92.5},
            "source A, training seed 0, 92.50 with tent, 90.00 at home; B, training seed 0, 92.50 with tent, 90.00 at",
        ),
        (
            {"dice": lambda target, index: 1e-6 if target == "C" else 60.0},
            "Class cup is empty in C: its Dice is 0 or 100",
        ),
        ({"dice": lambda target, index: (1e-6, 100.0)[index % 2]}, "is empty in C, D: its Dice is 0 or 100"),
    ],
)
def test_each_weakness_is_said_first_in_every_format(tmp_path, changes, sentence):
    table = made(tmp_path, **changes)
    assert any(sentence in line for line in warnings(table)), warnings(table)
    texts = texts_of(table)
    assert texts["table.md"].splitlines()[2] == "> **Warnings**"
    assert texts["table.tex"].index(r"\textbf{Warning:}") < texts["table.tex"].index("longtable}{")
    assert texts["index.html"].index('class="warnings"') < texts["index.html"].index("<main")
    assert sentence in texts["index.html"]
    assert sentence in texts["table.csv"]
    console = Console(file=io.StringIO(), width=80)
    console.print(summary([("", table)]))
    text = console.file.getvalue()
    assert text.index("warnings") < text.index("Dice in percent")
    assert max(map(len, text.splitlines())) <= 80


def test_a_model_that_has_seen_its_target_says_nothing_of_the_training_of_the_source(tmp_path):
    above = made(tmp_path, dice=92.5)
    assert any("undertrained" in line for line in warnings(above))
    finished = [each._replace(summary={**each.summary, "adapted": {"C": {}}}) for each in above.finished]
    assert not any("undertrained" in line for line in warnings(replace(above, finished=tuple(finished))))


def test_a_weak_source_model_is_the_first_of_all_warnings_and_the_bar_is_a_choice(tmp_path):
    table = made(tmp_path, leave_out=("tent", "B", 1), found={**EXAMINATION, "dice": 83.0}, skipped_updates=3)
    first, second, *_ = warnings(table)
    assert first.startswith("SOURCE MODEL TOO WEAK TO ADAPT: A, training seed 0, gains 6.00")
    assert second.startswith("1 of 8 cells have no results")
    texts = texts_of(table)
    assert "SOURCE MODEL TOO WEAK" in texts["table.md"].splitlines()[4]
    assert "SOURCE MODEL TOO WEAK" in texts["table.tex"].split("Warning:")[1]
    (cell, *_) = table.finished
    config = cell.cell.config
    assert "TOO WEAK" in run_warnings((cell.summary, cell.rows), config)[0]
    for lower in ({"source_gap": 6.0}, {"source_gap": None}):
        lenient = config.model_copy(update={"diagnostics": config.diagnostics.model_copy(update=lower)})
        assert run_warnings((cell.summary, cell.rows), lenient) == []


def test_a_class_that_every_row_misses_is_empty_in_every_row(tmp_path):
    table = made(tmp_path, dice=lambda *_: 0.0)
    nothing = [cell._replace(rows=[dict(row, dice_cup="0.0") for row in cell.rows]) for cell in table.finished]
    lines = warnings(replace(table, finished=tuple(nothing)))
    assert any(line.startswith("Class cup is empty in C, D") and line.endswith("in every row.") for line in lines)
    assert any(line.startswith("Class disc is empty in C, D") and line.endswith("with tent.") for line in lines)


def test_where_some_sources_have_several_training_seeds_the_others_are_named(tmp_path):
    table = made(tmp_path)
    fewer = [cell for cell in table.finished if cell.cell.config.source == "A" or cell.seed.training == 1]
    (line,) = warnings(replace(table, finished=tuple(fewer)))
    assert line.startswith("ONLY ONE TRAINING SEED (1) STANDS BEHIND EVERY NUMBER of source B:")


def test_a_domain_that_is_its_own_target_is_not_foreign(tmp_path):
    (cell, *_) = made(tmp_path, dice=60.0).finished
    targets = {"A": {"n": 3, "dice": 99.0}, "C": {"n": 3, "dice": 60.0}}
    assert run_warnings(({**cell.summary, "targets": targets}, cell.rows), cell.cell.config) == []
    assert len(run_warnings(({**cell.summary, "targets": {"C": targets["A"]}}, cell.rows), cell.cell.config)) == 1


def test_warnings_of_one_of_several_tables_name_it(tmp_path):
    whole, part = made(tmp_path / "1"), made(tmp_path / "2", in_domain=None, found=None)
    console = Console(file=io.StringIO(), width=200)
    console.print(summary([("limit=2", whole), ("limit=4", part)]))
    assert "! limit=4: In-domain Dice is unknown" in console.file.getvalue()


def test_of_a_class_outside_another_the_worst_rows_are_named_and_the_others_counted():
    def run(label, images, pixels):
        outside = {"class": "cup", "around": "disc", "images": images, "pixels": pixels, "of": 1000}
        return label, {"outside": [outside]}, [{}] * 20, None

    runs = [run("a", 1, 1), run("b", 2, 40), run("c", 1, 2), run("d", 1, 5), run("e", 1, 1)]
    (sentence,) = _outside(runs)
    assert "b in 2 of 20 images (4.00 percent of its pixels), d in 1 of 20" in sentence
    assert "c in 1" in sentence
    assert "2 more rows in fewer pixels. predict.nest=true" in sentence
    assert "1 more row in" in _outside(runs[:4])[0]
    assert "more" not in _outside(runs[:3])[0]
