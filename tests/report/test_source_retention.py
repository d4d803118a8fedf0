"""What adapted models have retained of the source stands in every table that has some, and in no other."""

import csv

from made_tables import finish, made_plan, planned
from tta_bench.launch.composition import composer
from tta_bench.report.formats.csv import write as csv_text
from tta_bench.report.formats.markdown import write as markdown
from tta_bench.report.tables import build_table


def test_source_retention_is_the_mean_over_the_adapted_models(tmp_path):
    with composer() as hydra:
        adapt = dict(hydra.compose(["adapt=adabn"]).adapt)
    plain = [planned(tmp_path, "no_adapt", {"method": "no_adapt"}), planned(tmp_path, "tent", {"method": "tent"})]
    stage = planned(tmp_path, "adabn", {"method": "no_adapt", "adapt": adapt})
    for each in plain:
        finish(each.cell, lambda target, k: 50 + k)
    assert "retention" not in markdown(build_table(made_plan(plain)))
    models = {t: {"path": f"{t}.ckpt", "sha256": t * 64, "dice_in_domain": d} for t, d in (("C", 80.0), ("D", 60.0))}
    finish(stage.cell, lambda target, k: 60 + k, adapted=models, method="adabn")
    rows = {"no_adapt": {"method": "no_adapt"}, "tent": {"method": "tent"}, "adabn": {"adapt": "adabn"}}
    table = build_table(made_plan([*plain, stage], rows=rows))
    assert {row.label: row.retained for row in table.rows} == {"no_adapt": 90.0, "tent": None, "adabn": 70.0}
    assert "Dice on held-out source images" in markdown(table)
    lines = [line for line in csv.DictReader(csv_text(table).splitlines()) if line["source"] == "average"]
    assert [line["dice_on_source"] for line in lines] == ["90.0", "", "70.0"]
