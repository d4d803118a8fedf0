"""What may stand in one table, and what is refused because its numbers cannot be compared."""

import hashlib
import json

import pytest

from made_tables import finish, made_plan, planned, simple_plan
from tta_bench.errors import UserError
from tta_bench.launch.experiment_files import read_experiments
from tta_bench.launch.experiments import plan
from tta_bench.report.checks import config_faults
from tta_bench.report.tables import build_table


def refuse(plan, **options):
    with pytest.raises(UserError) as refused:
        build_table(plan, **options)
    return refused.value.faults


def test_a_row_may_vary_the_protocol_on_purpose(tmp_path):
    rows = {"no_adapt": {"method": "no_adapt"}, "two": {"method": "tent", "protocol.steps": 2}}
    cells = [planned(tmp_path, label, values) for label, values in rows.items()]
    for entry in cells:
        finish(entry.cell, lambda *_: 50.0)
    assert build_table(made_plan(cells, rows=rows)).protocol["steps"] == (1, 2)


@pytest.mark.parametrize("key", ["protocol.threshold", "data.limit", "training.epochs"])
def test_cells_of_other_rules_images_or_training_are_refused_by_name(tmp_path, key):
    value = 0.25 if key == "protocol.threshold" else 7
    cells = [planned(tmp_path, "no_adapt", {}), planned(tmp_path, "tent", {"method": "tent", key: value})]
    (sentence,) = refuse(made_plan(cells))
    assert sentence.startswith(f"row 'tent', source A, training seed 0, order 0 ({cells[1].cell.folder().hash})")
    assert f"has {key}={value}, but row 'no_adapt'" in sentence
    assert sentence.endswith("their numbers cannot be compared")
    assert build_table(made_plan(cells, overrides=[f"{key}={value}"])), "said on the command line"


def test_two_cells_of_one_row_source_and_seed_are_refused(tmp_path):
    values = [{"method": "tent", "method.learning_rate": rate} for rate in (1e-3, 1e-4)]
    (sentence,) = refuse(made_plan([planned(tmp_path, "tent", each) for each in values], reference="tent"))
    assert "differ in method.learning_rate alone" in sentence


OTHER_MODEL = {"path": "x", "sha256": "f" * 64, "dice_in_domain": None}


@pytest.mark.parametrize(
    ("values", "summary", "words"),
    [
        ({"target": ("C",)}, None, "has target=C, but row 'no_adapt'"),
        ({}, {"source_checkpoint": OTHER_MODEL}, f"used the source model with sha256 {'f' * 12}, but row 'no_adapt'"),
        (
            {"source": "B"},
            {"data": {"C": "C" * 32, "D": "other" * 8}},
            "saw other images of D (fingerprint otherotherot) than row 'no_adapt', source A",
        ),
        ({}, {"protocol": {"steps": 3}}, "was computed with protocol.steps=3, not 1: compute it again with force=true"),
    ],
)
def test_cells_of_other_targets_models_images_or_rules_are_refused(tmp_path, values, summary, words):
    cells = [planned(tmp_path, "no_adapt", {}), planned(tmp_path, "tent", {"method": "tent"} | values)]
    finish(cells[0].cell, lambda *_: 50.0)
    if summary is not None:
        protocol = cells[1].cell.config.protocol.model_dump() | summary.get("protocol", {})
        finish(cells[1].cell, lambda *_: 50.0, **summary | {"protocol": protocol})
    (sentence,) = refuse(made_plan(cells))
    assert sentence.startswith(f"row 'tent', source {values.get('source', 'A')}")
    assert words in sentence
    remedies = "give target one value", "again with force=true", "both use the one that is in results_root then"
    assert sentence.endswith(remedies)


ADABN = {"name": "adabn", "batch_size": 8}


def made_of(adapted=None, bank=None):
    """What a summary says of the models of targets, and of the bank."""
    models = {
        target: {"path": "x", "sha256": text * 64, "dice_in_domain": None} for target, text in (adapted or {}).items()
    }
    return ({"adapted": models} if models else {}) | ({"bank": bank * 64} if bank else {})


@pytest.mark.parametrize(
    ("method", "first", "second", "other_options", "words"),
    [
        ("tent", {"adapted": {"C": "c", "D": "d"}}, {"adapted": {"C": "c", "D": "e"}}, {}, "the adapted model of D"),
        ("tent", {"adapted": {"C": "c", "D": "d"}}, {"adapted": {"C": "c", "D": "d"}}, {}, None),
        ("tent", {"adapted": {"C": "c", "D": "d"}}, {"adapted": {"C": "f", "D": "e"}}, {"batch_size": 4}, None),
        ("fda", {"bank": "a"}, {"bank": "b"}, {}, "a bank of source images"),
        ("fda", {"bank": "a"}, {"bank": "b"}, {"method.radius": 5.0}, None),
    ],
)
def test_rows_that_ask_for_one_adapted_model_or_bank_have_used_one(
    tmp_path, method, first, second, other_options, words
):
    method_options = {key: value for key, value in other_options.items() if key.startswith("method.")}
    system = ADABN | {key: value for key, value in other_options.items() if key not in method_options}
    kinds = [("first", {}, ADABN, first), ("second", method_options, system, second)]
    cells = []
    for row_label, options, adapt, made in kinds:
        values = {"method": method, **options, "protocol.order": len(cells)}
        cells.append(planned(tmp_path, row_label, values | ({"adapt": adapt} if method == "tent" else {})))
        finish(cells[-1].cell, lambda *_: 50.0, **made_of(**made))
    made_of_both = made_plan(cells, reference="first")
    if words is None:
        assert build_table(made_of_both)
    else:
        (sentence,) = refuse(made_of_both)
        assert sentence.startswith("row 'second', source A")
        assert f"used {words} with sha256" in sentence
        assert "but row 'first'" in sentence


def test_an_unknown_reference_is_refused_with_the_nearest_row(tmp_path):
    plan = simple_plan(tmp_path, {"no_adapt": 0.0}, ("A",))
    assert refuse(plan, reference="no_adpt") == ("there is no row 'no_adpt' to compare with: did you mean 'no_adapt'?",)


def test_the_hash_is_of_the_rules_and_the_images_wherever_they_lie(tmp_path):
    table = build_table(made_plan([planned(tmp_path, "no_adapt", {})]))
    content = {"protocol": dict(table.protocol), "data": dict(table.data)}
    del content["protocol"]["name"], content["protocol"]["empty"], content["data"]["root"]
    expected = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    assert table.protocol_hash == expected

    def with_values(**values):
        return build_table(made_plan([planned(tmp_path, "no_adapt", values)])).protocol_hash

    assert with_values(**{"protocol.steps": 2}) != expected
    assert with_values(**{"data.image_size": 128}) != expected
    assert with_values(**{"data.root": tmp_path, "results_root": tmp_path / "other"}) == expected


@pytest.mark.parametrize("name", sorted(name for name, each in read_experiments().items() if each.path is None))
def test_the_rows_of_every_shipped_experiment_may_stand_in_one_table(name):
    planned_cells = plan(name, ["source=D"])
    assert config_faults(planned_cells, [(each.row, each.cell) for each in planned_cells.cells]) == []
