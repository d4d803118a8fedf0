"""Average, backward and forward transfer stand in a table of stages, and in no other."""

from made_tables import finish, made_plan, planned
from tta_bench.report.formats.markdown import write as markdown
from tta_bench.report.tables import build_table
from tta_bench.report.text import transfer_groups
from tta_bench.report.transfer import transfers
from tta_bench.report.write import transfer_tables

SCORES = {"C": {"C": 80.0, "D": 20.0}, "D": {"C": 70.0, "D": 90.0}}


def cells(root, stages=("C", "D")):
    """A row after each stage."""
    for source, scores in SCORES.items():
        part = stages and stages[: stages.index(source) + 1]
        one = planned(root, "no_adapt", {"method": "no_adapt", "stages": part}, source=source)
        finish(one.cell, lambda target, k, scores=scores: scores[target])
        yield one


def test_a_table_of_stages_has_transfer_and_matrix(tmp_path):
    table = build_table(made_plan([*cells(tmp_path)]))
    found = transfers(table)["no_adapt"]
    assert found.matrix.tolist() == [[80.0, 20.0], [70.0, 90.0]]
    assert (found.average, found.backward, found.forward, found.models) == (80.0, -10.0, 70.0, 1.0)
    (columns,) = transfer_groups(table).values()
    assert [column.heading for column in columns] == ["average", "BWT", "FWT", "models"]
    assert [column.cells[0] for column in columns] == ["80.00", "-10.00", "+70.00", "1"]
    assert "after stage D" in markdown(table)
    scores, matrix = transfer_tables(table)
    assert (scores.row_count, matrix.row_count) == (1, 2)


def test_without_all_stages_there_is_a_dash_and_without_stages_nothing(tmp_path):
    first, _ = cells(tmp_path)
    missing = planned(tmp_path / "other", "no_adapt", {"method": "no_adapt", "stages": ("C", "D")}, source="D")
    table = build_table(made_plan([first, missing]))
    assert transfers(table) == {"no_adapt": None}
    (columns,) = transfer_groups(table).values()
    assert {column.cells[0] for column in columns} == {"\N{EN DASH}"}
    assert transfer_tables(table)[1].row_count == 0
    plain = build_table(made_plan([*cells(tmp_path / "plain", None)][:1]))
    assert not transfers(plain)
    assert not transfer_tables(plain)
