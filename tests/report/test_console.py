"""The table of a run is read on a terminal of 80 columns."""

import io
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from made_tables import EXAMINATION, base, changed
from tta_bench.metrics.dice import dice_score
from tta_bench.metrics.iou import iou_score
from tta_bench.records.store import CellFolder
from tta_bench.report.console import ScoreTable, cell_table, class_table, show


def result(method, targets, classes=("disc", "cup"), shift=0.0, source="D", seconds=0.123):
    """A summary and rows with made-up numbers that depend on target, index and class alone."""
    rows, summaries = [], {}
    for name, count in targets.items():
        images = []
        for index in range(count):
            draw = random.Random(f"{name}{index}")
            dice = {f"dice_{label}": min(100.0, draw.uniform(40, 90) + shift) for label in classes}
            images.append({"target": name, "index": str(index), **dice, "dice": sum(dice.values()) / len(dice)})
        keys = [*(f"dice_{label}" for label in classes), "dice"]
        means = {key: sum(row[key] for row in images) / count for key in keys}
        summaries[name] = {"n": count, **means, "seconds_per_image": seconds}
        rows += [{key: str(value) for key, value in row.items()} for row in images]
    return {
        "source": source,
        "seed": 0,
        "method": method,
        "protocol": {},
        "source_checkpoint": {"dice_in_domain": 99.0, "examination": EXAMINATION},
        "targets": summaries,
        "seconds_per_image": seconds,
    }, rows


def printed(adapted, reference=None, width=80, metric=dice_score):
    console = Console(file=io.StringIO(), width=width)
    console.print(cell_table(metric, adapted, reference, f"source {adapted[0]['source']}"))
    return console.file.getvalue().rstrip("\n").split("\n")


def test_the_papers_targets_fit_into_80_columns_with_a_row_per_line():
    targets = {"A": 159, "B": 400, "C": 650, "E": 101}
    adapted, reference = result("no_adapt", targets, shift=10, seconds=12.345), result("no_adapt", targets)
    lines = printed(adapted, reference)
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if "no_adapt" in line]
    assert len(rows) == 5 * 2, "two rows per target and mean, one line each"
    assert not any("…" in line for line in lines)
    assert lines[1].split() == ["difference", "s", "per"]
    assert " ".join(lines[2].split()) == "target n method disc cup mean [95 % interval] image"


@pytest.mark.parametrize("name", ["uncertain_entropy", "most_uncertain_entropy_first", "spottunet + domain_adaptor"])
def test_a_long_name_of_a_method_cuts_no_number(name):
    lines = printed(result(name, {"A": 400}, shift=10, seconds=12.345), result("no_adapt", {"A": 400}))
    assert max(map(len, lines)) <= 80
    assert " ".join(lines[2].split()) == "target n method disc cup mean [95 % interval] image"
    row = next(place for place, line in enumerate(lines) if "12.345" in line and "+10.00" in line)
    column = lines[2].index("method")
    below = [line[column:].split("  ")[0].strip() for line in lines[row:-1]]
    assert "".join(below).replace(" ", "") == name.replace(" ", "")


def test_each_metric_that_was_asked_for_has_its_table():
    adapted, reference = result("tent", {"A": 3}, shift=5), result("no_adapt", {"A": 3})
    for summary, rows in (adapted, reference):
        for each in (*rows, *summary["targets"].values()):
            halves = {key.replace("dice", "iou"): value for key, value in each.items() if key.startswith("dice")}
            each |= {key: type(value)(float(value) / 2) for key, value in halves.items()}
    lines = [line.split() for line in printed(adapted, reference, metric=iou_score)]
    assert " ".join(lines[0]) == "IoU in percent, source D, seed 0"
    row = next(line for line in lines if line[:1] == ["tent"])
    assert row[1:5] == [
        *(f"{adapted[0]['targets']['A'][key] / 2:.2f}" for key in ("dice_disc", "dice_cup", "dice")),
        "+2.50",
    ]
    config = changed(
        base(),
        {"method": "tent", "source": "D", "target": ("A",), "method.learning_rate": 0.25, "metrics": ("dice", "iou")},
    )
    asked = SimpleNamespace(config=config, folder=lambda: CellFolder(Path("cells/x")))
    console = Console(file=io.StringIO(), width=80)
    show(console, asked, adapted, reference)
    text = console.file.getvalue()
    assert "source D, seed 0, lr=0.25" in " ".join(text.split())
    assert text.index("Dice in percent") < text.index("IoU in percent") < text.index("results: cells/x")


def test_the_numbers_are_those_of_the_summary_and_the_mean_is_over_targets():
    targets = {"A": 2, "B": 6}
    adapted, reference = result("tent", targets, shift=5), result("no_adapt", targets)
    lines = [line.split() for line in printed(adapted, reference)]
    row = next(line for line in lines if line[:1] == ["tent"])
    a = adapted[0]["targets"]["A"]
    assert row[1:4] == [f"{a[key]:.2f}" for key in ("dice_disc", "dice_cup", "dice")]
    assert row[4] == "+5.00"
    assert row[-1] == "0.123"
    mean = next(line for line in lines if line[:1] == ["mean"])
    assert mean[:3] == ["mean", "8", "no_adapt"]
    assert mean[5] == f"{sum(t['dice'] for t in reference[0]['targets'].values()) / 2:.2f}"


def test_one_class_has_one_column_called_dice():
    lines = printed(*(result(name, {"E": 5}, classes=("foreground",)) for name in ("tent", "no_adapt")))
    assert " ".join(lines[2].split()) == "target n method Dice [95 % interval] image"
    assert not any("foreground" in line for line in lines)
    assert not any(line.startswith("mean") for line in lines), "the mean of one target is that target"


def test_many_classes_are_summed_up_in_their_mean_and_listed_below():
    classes = tuple(f"a class with a long name {number}" for number in range(6))
    adapted, reference = (
        result(name, {"E": 5, "F": 2}, classes, 2.5 * (name == "tent")) for name in ("tent", "no_adapt")
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(class_table(dice_score, adapted, reference))
    listed = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert sum("a class with a long name" in line and line.endswith("+2.50") for line in listed) == 12
    value = adapted[0]["targets"]["F"][f"dice_{classes[3]}"]
    assert f"{classes[3]} {value - 2.5:.2f} {value:.2f} +2.50" in listed
    lines = printed(*(result(name, {"E": 5}, classes) for name in ("tent", "no_adapt")))
    assert " ".join(lines[2].split()) == "target n method mean [95 % interval] image"
    assert " ".join(" ".join(lines).split()).endswith("mean of 6 classes; scored at the size of the network's input")


def test_without_a_reference_there_is_no_difference():
    text = "\n".join(printed(result("no_adapt", {"A": 3})))
    assert "difference" not in text
    assert "interval" not in text


def test_of_one_image_the_difference_has_no_interval():
    lines = printed(result("tent", {"A": 1}, shift=2), result("no_adapt", {"A": 1}))
    assert any("+2.00" in line for line in lines)
    assert "nan" not in "\n".join(lines)
    assert sum("[" in line for line in lines) == 1, "in the heading alone"


@pytest.mark.parametrize("name", ["[bold]", "site [1]", "a_very_long_name_of_a_hospital_in_the_north"])
def test_names_are_printed_whole_and_never_as_markup(name):
    text = "\n".join(printed(*(result(method, {name: 3}, source=name) for method in ("tent", "no_adapt")), width=110))
    assert text.count(name) == 2


def test_a_long_name_is_folded_and_no_number_is_cut():
    name = "a_very_long_name_of_a_hospital_in_the_north"
    adapted, reference = (result(method, {name: 1000}, shift=9 * (method == "tent")) for method in ("tent", "no_adapt"))
    lines = printed(adapted, reference)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "…" not in text
    assert all(f"{adapted[0]['targets'][name][key]:.2f}" in text for key in ("dice_disc", "dice_cup", "dice"))


SETTINGS = ("none", "tta", "tta+bank", "sda, our reconstruction")


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("told", [{"has_settings": a, "has_presets": b} for a in (False, True) for b in (False, True)])
@pytest.mark.parametrize("spread", ["", "\n±0.12"])
def test_of_five_sources_no_word_of_a_label_and_no_number_is_broken(width, told, spread):
    table = ScoreTable("made: Dice in percent")
    columns = [*"ABCDE", "average"]
    table.add_score_columns(columns, "no_adapt", **told)
    labels = ("no_adapt", "bn_only", "tent fast", "grata with many words")
    for number, (label, setting) in enumerate(zip(labels, SETTINGS, strict=True)):
        scores = [f"{10 * number + place}.25{spread}" for place in range(len(columns))]
        seen = [setting] * told["has_settings"] + ["official"] * told["has_presets"]
        table.add_row(label, *seen, *scores, f"+{number}2.50", "<0.001")
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    words = [word for line in lines for word in line.split()]
    for number, label in enumerate(labels):
        assert set(label.split()) <= set(words)
        (row,) = [line.split() for line in lines if line.startswith(label.split()[0])]
        numbers = [word for word in row if word.endswith(".25")]
        assert numbers == [f"{10 * number + place}.25" for place in range(len(columns))]
        assert row[-2:] == [f"+{number}2.50", "<0.001"]
    assert words.count("±0.12") == (len(labels) * len(columns) if spread else 0)


def test_where_there_is_no_room_for_a_label_it_is_folded_before_a_number_is_cut():
    table = ScoreTable("made: Dice in percent")
    table.add_score_columns([*"ABCDE", "average"], "no_adapt", has_settings=False, has_presets=False)
    table.add_row("no_adapt", *["81.25"] * 6, "+12.50", "<0.001")
    console = Console(file=io.StringIO(), width=54)
    console.print(table)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 54
    (row,) = [line.split() for line in lines if "+12.50" in line]
    assert row == ["no_a", *["81.25"] * 6, "+12.50", "<0.001"]
