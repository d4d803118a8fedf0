"""A table of stages compares what is left after the last of them; the earlier ones serve transfer and its matrix."""

import csv
from dataclasses import replace

import pytest

from made_tables import finish, made_plan, planned, texts_of
from tta_bench.launch.composition import composer
from tta_bench.report.audit import audit
from tta_bench.report.breakdown import breakdown
from tta_bench.report.comparisons import comparisons
from tta_bench.report.tables import build_table
from tta_bench.report.text import transfer_groups
from tta_bench.report.transfer import transfers
from tta_bench.report.warnings import run_warnings, warnings
from tta_bench.report.write import summary_table, transfer_tables

FIRST = {"C": 80.0, "D": 20.0}
SCORES = {"no_adapt": {"C": FIRST, "D": FIRST}, "fta": {"C": FIRST, "D": {"C": 70.0, "D": 90.0}}}
"""Row -> stage after which is tested -> target -> Dice."""
MODEL = {"path": "models/C.ckpt", "sha256": "c" * 64, "dice_in_domain": 60.0, "examination": None}
"""Of the first stage, which all cells begin with."""


@pytest.fixture(scope="module")
def fta():
    with composer() as hydra:
        return dict(hydra.compose(["adapt=fta", "adapt.labels=all"]).adapt)


@pytest.fixture
def cells(tmp_path, fta):
    """(row, stage) -> a finished cell, made as they are: after the first stage its own model answers."""
    made = {}
    for row, adapt in (("no_adapt", None), ("fta", fta)):
        for source, stages in (("C", ("C",)), ("D", ("C", "D"))):
            one = planned(tmp_path, row, {"method": "no_adapt", "adapt": adapt, "stages": stages}, source)
            trained = {**MODEL, "dice_in_domain": 60.0 if source == "C" else None}
            more = {} if adapt is None else {"adapted": dict.fromkeys("CD", trained), "method": "fta"}
            finish(one.cell, lambda target, _, of=SCORES[row][source]: of[target], source_checkpoint=MODEL, **more)
            made[row, source] = one
    return made


def table_of(cells):
    rows = {"no_adapt": {"method": "no_adapt"}, "fta": {"adapt": "fta"}}
    return build_table(made_plan([*cells], rows=rows))


def test_rows_are_compared_after_the_last_stage_in_every_number_and_figure(cells):
    table = table_of(cells.values())
    plain, fta = table.rows
    assert (table.stages, table.columns) == (("C", "D"), ("average",))
    assert (plain.result("average").value, fta.result("average").value) == (50.0, 80.0)
    assert (fta.vs_reference.mean, fta.vs_reference.n) == (30.0, 6)
    groups = {(target, str(index)): target for target in "CD" for index in range(3)}
    assert [row.means for row in audit(table, "domain", groups, 0).rows] == [SCORES[row]["D"] for row in SCORES]
    assert {(part.row, part.target): part.mean for part in breakdown(table)} == {
        (row, target): of["D"][target] for row, of in SCORES.items() for target in "CD"
    }
    heat_map = comparisons(table)[0].picture.svg
    assert all(difference in heat_map for difference in ("+70", "\N{MINUS SIGN}10"))
    assert "after stage D" in str(summary_table(table).title)


def test_transfer_and_matrix_stand_in_every_format_with_the_average_of_the_table(cells):
    table = table_of(cells.values())
    found = transfers(table)["fta"]
    assert found.matrix.tolist() == [[80.0, 20.0], [70.0, 90.0]]
    assert (found.backward, found.forward, found.models) == (-10.0, 70.0, 1.0)
    groups = transfer_groups(table)
    assert {name: [(each.heading, each.cells[1]) for each in columns] for name, columns in groups.items()} == {
        "over all stages": [("average", "80.00"), ("BWT", "-10.00"), ("FWT", "+70.00"), ("models", "1")],
        "after stage C": [("C", "80.00"), ("D", "20.00")],
        "after stage D": [("C", "70.00"), ("D", "90.00")],
    }
    assert [printed.row_count for printed in transfer_tables(table)] == [2, 2, 2]
    texts = texts_of(table)
    for name in ("table.md", "table.tex", "index.html"):
        assert all(word in texts[name] for word in (*groups, "BWT", "FWT")), name
        assert "left after stage D" in texts[name], name


def test_what_first_images_are_retained_is_not_measured(cells):
    table = table_of(cells.values())
    assert [row.retained for row in table.rows] == [None, None]
    texts = texts_of(table)
    assert "source retention" not in texts["table.md"]
    assert {line["dice_on_source"] for line in csv.DictReader(texts["table.csv"].splitlines())} == {""}


def test_the_source_model_is_that_of_the_first_stage_and_told_once(cells):
    table = table_of(cells.values())
    assert [model.source for model in table.source_models] == ["C"]
    weak, *others = warnings(table)
    assert weak.startswith("SOURCE MODEL TOO WEAK TO ADAPT: C has an in-domain Dice of 60.00, below 70. ")
    assert any("not examined: source C." in line for line in others)
    assert not any("undertrained" in line for line in others), "the first stage's own domain is not foreign"
    last = table.finished[0]
    assert run_warnings((last.summary, last.rows), last.cell.config)[0] == weak
    pool = {key: value for key, value in table.finished[1].summary.items() if key != "adapted"} | {"routes": {"C": {}}}
    of_pool = replace(table, finished=(table.finished[1]._replace(summary=pool),))
    assert not any("undertrained" in line for line in warnings(of_pool)), "models of a pool are not the source model"


def test_what_is_missing_is_a_dash(cells, tmp_path):
    later = cells["fta", "D"].cell.config.model_copy(update={"results_root": tmp_path / "other"})
    missing = replace(cells["fta", "D"], cell=replace(cells["fta", "D"].cell, config=later))
    table = table_of({**cells, ("fta", "D"): missing}.values())
    assert (table.rows[1].average.value, table.rows[1].vs_reference) == (None, None)
    assert transfers(table)["fta"] is None
    groups = transfer_groups(table)
    assert {column.cells[1] for columns in groups.values() for column in columns} == {"\N{EN DASH}"}
    fewer = table_of([cells["no_adapt", "C"], cells["no_adapt", "D"], cells["fta", "C"]])
    assert [row.average.value for row in fewer.rows] == [50.0, None], "a row that has not come to the last stage"


def test_cells_of_one_stage_or_of_none_have_no_transfer(cells, tmp_path):
    plain = planned(tmp_path / "plain", "no_adapt", {"method": "no_adapt"})
    finish(plain.cell, lambda target, _: FIRST[target])
    for some in ([plain], [cells["no_adapt", "C"], cells["fta", "C"]], [cells["no_adapt", "D"], cells["fta", "D"]]):
        table = table_of(some)
        assert not transfers(table)
        assert not transfer_tables(table)
        assert not any("BWT" in text for text in texts_of(table).values())
    assert table.rows[1].average.value == 80.0


def test_rows_of_different_orders_say_why_they_are_not_compared(cells, tmp_path, fta):
    other = planned(tmp_path, "reversed", {"method": "no_adapt", "adapt": fta, "stages": ("D", "C")}, "C")
    finish(other.cell, lambda target, _: FIRST[target], source_checkpoint=MODEL)
    table = build_table(made_plan([*cells.values(), other], rows={row: {} for row in ("no_adapt", "fta", "reversed")}))
    assert (table.columns, table.rows[2].vs_reference) == (("D", "C", "average"), None)
    told = "Rows have learned in different orders of stages (C, D: no_adapt, fta; D, C: reversed). "
    assert sum(line.startswith(told) for line in warnings(table)) == 1
    assert not any("orders" in line for line in warnings(table_of(cells.values())))
