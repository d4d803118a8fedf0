"""Numbers per target and class, in every format."""

import csv
import io
import re
from dataclasses import replace

import pytest

from made_tables import simple_plan, texts_of
from tta_bench.report.formats.markdown import write as markdown
from tta_bench.report.tables import build_table
from tta_bench.report.text import breakdown_groups


@pytest.fixture
def table(tmp_path):
    """Two sources and targets; the last row has two seeds."""

    def gain(source, seed, target, index):
        return 5.0 + seed + (source == "B") / 4

    return build_table(simple_plan(tmp_path, {"no_adapt": 0.0, "grata": gain}, seeds=(0, 1)))


def targets_of(text):
    """Source, target and class -> what Markdown prints for ``grata``."""
    found, source, head = {}, None, []
    for line in text.splitlines():
        source = line.strip("*").removeprefix("source ") if line.startswith("**source ") else source
        cells = [re.sub(r"[*]|</?u>", "", cell) for cell in line.strip("| ").split(" | ")]
        head = cells if line.startswith("| row |") else head
        if source and line.startswith("| grata |"):
            found |= {(source, *place.split()): value for place, value in zip(head[1:], cells[1:], strict=True)}
    return found


def test_every_target_and_class_is_in_every_format(table):
    """The two seeds differ by one point, so a number that is of one of them alone would show."""
    expected = {}
    for source in table.sources:
        for target in table.targets[source]:
            for name, key in (("disc", "dice_disc"), ("cup", "dice_cup"), ("mean", "dice")):
                of = [c for c in table.finished if (c.row, c.cell.config.source) == ("grata", source)]
                values = [cell.summary["targets"][target][key] for cell in of]
                expected[source, target, name] = sum(values) / len(values)
    assert len(expected) == 12
    assert targets_of(markdown(table)) == {place: f"{value:.2f}" for place, value in expected.items()}
    texts = texts_of(table)
    lines = [line for line in csv.DictReader(io.StringIO(texts["targets.csv"])) if line["row"] == "grata"]
    columns = {"disc": "dice_disc", "cup": "dice_cup", "mean": "dice"}
    assert {
        (line["source"], line["target"], name): float(line[column])
        for line in lines
        for name, column in columns.items()
    } == pytest.approx(expected)
    assert {(line["n"], line["seeds"]) for line in lines} == {("3", "2")}
    for (_, target, name), value in expected.items():
        assert f"{target} {name} & " in texts["table.tex"] or rf"{target} {name} \\" in texts["table.tex"]
        assert f"{value:.2f}" in texts["table.tex"]
        assert re.search(rf'<td data-label="{target} {name}">(<strong>)?{value:.2f}<', texts["index.html"])


def test_many_classes_are_split_into_parts_that_fit_a_page(table):
    classes = [f"c{number}" for number in range(20)]
    cells = []
    for cell in table.finished:
        targets = {
            target: {**numbers, **{f"dice_{name}": float(k) for k, name in enumerate(classes)}}
            for target, numbers in cell.summary["targets"].items()
        }
        cells.append(cell._replace(summary={**cell.summary, "targets": targets}))
    groups = breakdown_groups(replace(table, classes=tuple(classes), finished=tuple(cells)))
    for source in table.sources:
        parts = [columns for name, columns in groups.items() if name.startswith(f"source {source}, part ")]
        assert [len(part) for part in parts] == [12, 12, 12, 6]
        assert len({column.heading for part in parts for column in part}) == 2 * 21
