"""Tables by groups of images: exact groups, worst groups and gaps of made-up numbers, in every format."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from fabricated import IMAGES, fabricated_table

from made_tables import simple_plan, texts_of
from tta_bench.cli import main
from tta_bench.report.audit import audit, audited, grouped
from tta_bench.report.tables import build_table

GROUPS = {("C", "0"): "x", ("C", "1"): "x", ("C", "2"): "y", ("D", "0"): "y", ("D", "1"): "y", ("D", "2"): "x"}


@pytest.fixture
def table(tmp_path):
    """The method gains 4 points in group y, and 1 in x, on both sources; another one is the same everywhere."""

    def gain(source, seed, target, index):
        return 4.0 if GROUPS[target, str(index)] == "y" else 1.0

    return build_table(simple_plan(tmp_path, {"no_adapt": 0.0, "tent": gain, "bn_only": 2.0}))


def test_groups_worst_group_gap_and_what_a_method_adds_to_it_are_exact(table):
    found = audit(table, "device", GROUPS, left_out=0)
    value = {key: 50 + 10 * (key[0] == "D") + np.sqrt(int(key[1])) for key in GROUPS}
    x, y = (np.mean([value[key] for key, group in GROUPS.items() if group == name]) for name in "xy")
    assert y > x
    assert found.counts == {"x": 3, "y": 3}
    assert (found.worst, found.best) == ("x", "y")
    before, tent, other = found.rows
    assert before.means == pytest.approx({"x": x, "y": y})
    assert (before.worst, before.gap, before.widening) == ("x", pytest.approx(y - x), None)
    assert tent.means == pytest.approx({"x": x + 1, "y": y + 4})
    assert tent.gap == pytest.approx(y - x + 3)
    assert tent.widening == pytest.approx((3, 3, 3))
    assert other.widening == pytest.approx((0, 0, 0))


def test_a_row_may_have_another_worst_group_than_the_reference(tmp_path):
    def gain(source, seed, target, index):
        return 30.0 if GROUPS[target, str(index)] == "x" else 0.0

    found = audit(build_table(simple_plan(tmp_path, {"no_adapt": 0.0, "tent": gain})), "device", GROUPS, 0)
    assert (found.rows[0].worst, found.rows[1].worst) == ("x", "y")
    assert found.rows[1].gap > 0 > found.rows[1].widening.high


def test_numbers_are_grouped_by_thirds_of_the_images_and_equal_ones_stay_together():
    values = {("A", str(k)): float(k) for k in range(9)}
    groups = grouped(values)
    assert [groups["A", str(k)].split()[0] for k in range(9)] == ["low"] * 3 + ["middle"] * 3 + ["high"] * 3
    assert groups["A", "0"] == "low (to 2)"
    assert len(set(grouped(dict.fromkeys(values, 1.0)).values())) == 1
    assert grouped({("A", "0"): "X", ("A", "1"): 2.0}) == {("A", "0"): "X", ("A", "1"): "2.0"}


def test_every_format_has_the_audit(table):
    found = replace(table, audit=audit(table, "device", GROUPS, left_out=1))
    texts = texts_of(found)
    lines = list(csv.DictReader(io.StringIO(texts["audit.csv"])))
    assert [(line["row"], line["group"], line["n"]) for line in lines][2:4] == [("tent", "x", "3"), ("tent", "y", "3")]
    assert float(lines[2]["gap_minus_reference"]) == pytest.approx(3)
    for name in ("table.md", "table.tex", "index.html"):
        text = texts[name].replace("$", "").replace("\\", "")
        assert "by device" in text, name
        assert "worst group" in text, name
        assert "Widened beyond chance (interval above 0) by: tent; narrowed by: none." in text, name
        assert "1 images without a value" in text, name
    assert texts_of(table)["audit.csv"] == ""


def test_by_brightness_from_real_images_and_by_a_column_of_a_table(tmp_path, capsys):
    table = fabricated_table(tmp_path)
    found = audited(table, "brightness", None)
    assert sum(found.counts.values()) == 2 * IMAGES
    assert len(found.counts) == 3
    with (table.finished[0].cell.folder().path / "per_image.csv").open(newline="") as lines:
        named = [(line["target"], line["image"], "XY"[int(line["index"]) % 2]) for line in csv.DictReader(lines)]
    rows = "".join(f"{','.join(each)}\n" for each in named)
    file = tmp_path / "given.csv"
    file.write_text(f"domain,image,device\n{rows}")
    words = ["data.image_size=64", f"data.limit={IMAGES}", "source=A,B", "target=C,D", f"results_root={tmp_path}"]
    main(["report", "first_look", *words, f"data.attributes={file}", "--by", "device"])
    written = tmp_path / "reports/first_look/by_device"
    assert {line["group"] for line in csv.DictReader((written / "audit.csv").open(newline=""))} == {"X", "Y"}
    assert "by device" in (written / "table.md").read_text()
    printed = " ".join(capsys.readouterr().out.split())
    for words_of_audit in ("first_look: Dice in percent by device", "X (n=", "gap by device", "worst group"):
        assert words_of_audit in printed
    with pytest.raises(SystemExit):
        main(["report", "first_look", *words, "--by", "device"])
    assert "there is no attribute 'device'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["report", "first_look", *words, f"data.attributes={file}"])
    assert f"data.attributes={file} has columns for --by: add --by COLUMN" in capsys.readouterr().err
