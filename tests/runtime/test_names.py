"""Names are found, shown and written down as they are."""

import csv
import io
import subprocess
import sys

import pytest
import yaml
from omegaconf._utils import get_yaml_loader
from rich.console import Console
from rich.table import Table

from awkward import NAMES, csv_rows
from tta_bench.errors import shown
from tta_bench.records.store import CellFolder
from tta_bench.runtime.names import csv_file, distinct, find, literal

EXECUTED = ("=", "+", "-", "@", "\t", "\r")


def test_a_csv_is_read_as_it_was_written_and_executed_by_nobody():
    rows = [{"name": name, "value": -1.5, "none": None} for name in (*NAMES, "'", "''=x", "-1.5", "")]
    text = csv_file(["name", "value", "none"], rows)
    assert csv_rows(io.StringIO(text, newline="")) == [{**row, "value": "-1.5", "none": ""} for row in rows]
    raw = list(csv.DictReader(io.StringIO(text, newline="")))
    assert not [row["name"] for row in raw if row["name"].startswith(EXECUTED)]
    assert {row["value"] for row in raw} == {"-1.5"}, "numbers are numbers"


def test_ordinary_rows_are_written_as_ever():
    rows = [{"source": "A", "image": "A-0001", "dice": 0.1}, {"source": "B", "image": "x,y"}]
    assert csv_file(["source", "image", "dice"], rows) == 'source,image,dice\nA,A-0001,0.1\nB,"x,y",\n'


def test_a_class_called_like_a_column_has_a_column_of_its_own(tmp_path):
    row = {"index": 0, "image": "x", "dice_index": 1.0, "dice_image": 2.0, "dice_": 3.0, "dice": 2.0}
    CellFolder(tmp_path).finish([row], {}, {})
    with (tmp_path / "per_image.csv").open(newline="") as file:
        assert csv_rows(file) == [{key: str(value) for key, value in row.items()}]


def test_a_cells_configuration_keeps_names_as_text_for_every_reader(tmp_path):
    folder = CellFolder(tmp_path)
    content = {"target": list(NAMES), "data": {"classes": {name: [1] for name in NAMES}}, "seed": 1, "rate": 1e-3}
    folder.start(content)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == content
    with (tmp_path / "config.yaml").open() as file:
        assert yaml.load(file, Loader=get_yaml_loader()) == content, "to which 1e3 is a number"


def test_what_is_no_domain_is_called_like_none():
    assert distinct("mean", ["A", "mean", "(mean)"]) == "((mean))"


def test_a_spelling_of_its_own_comes_before_another_of_the_same_name():
    both = ["Zu\N{COMBINING DIAERESIS}rich", "Zürich"]
    assert [find(name, both) for name in both] == both
    assert find("Zug", both) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_terminal_shows_a_name_on_one_line(name):
    console = Console(file=io.StringIO(), width=300)
    table = Table(title=literal(name), box=None)
    table.add_column(literal(name))
    table.add_row(literal(name))
    console.print(table)
    assert console.file.getvalue().count(shown(name)) == 3
    assert not set("\n\r\t\x1b") & set(shown(name))


def test_printing_never_fails():
    program = (
        "from tta_bench.runtime.names import print_everything, literal\n"
        "from rich.console import Console; print_everything();"
        "print('Zürich \U0001f600 \\udcff'); Console().print(literal('東京 \\udcff'))"
    )
    environment = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == rb"Z\xfcrich \U0001f600 \udcff" + b"\n" + rb"\u6771\u4eac \udcff" + b"\n"
