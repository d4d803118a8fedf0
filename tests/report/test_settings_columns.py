"""A row says what it may see, and whose it is, where that is more than test images, in every format."""

import csv
import io
from itertools import groupby

import pytest
from rich.console import Console

from made_tables import finish, made_plan, planned, simple_plan, texts_of
from tta_bench.launch.composition import composer
from tta_bench.launch.experiments import plan
from tta_bench.offline.base import SYSTEMS
from tta_bench.offline.rights import rights_of
from tta_bench.report.tables import build_table
from tta_bench.report.write import summary_table
from tta_bench.sinks.about import about_cell


def adapted(root, label, system):
    with composer() as hydra:
        section = dict(hydra.compose([f"adapt={system}"]).adapt)
    return planned(root, label, {"method": "no_adapt", "adapt": section})


def told(table):
    """The formats, and what a run prints."""
    console = Console(file=io.StringIO(), width=100)
    console.print(summary_table(table))
    written = {name: content for name, content in texts_of(table).items() if content}
    return written | {"console": console.file.getvalue()}


def test_setting_and_reconstruction_are_in_every_format(tmp_path):
    cells = [planned(tmp_path, name, {"method": name}) for name in ("no_adapt", "tent", "grad_cl")]
    cells += [adapted(tmp_path, f"stage {system}", system) for system in ("dpl", "grad_cl")]
    for entry in cells:
        finish(entry.cell, lambda target, index: 50.0 + index)
    rows = {entry.row: {"method": entry.cell.config.method["name"]} for entry in cells}
    table = build_table(made_plan(cells, rows=rows))
    assert [(row.setting_told, row.may_see) for row in table.rows] == [
        ("none", "nothing"),
        ("tta", "the test image"),
        ("tta, our reconstruction", "the test image"),
        ("sfda", "target images"),
        ("sfda, our reconstruction", "target images"),
    ]
    for name, text in told(table).items():
        flat = " ".join(text.replace("│", " ").split())
        assert "sfda" in flat, name
        assert "reconstruction" in flat, name
    lines = list(csv.DictReader(io.StringIO(told(table)["table.csv"])))
    assert {line["row"]: (line["setting"], line["reconstruction"]) for line in lines} == {
        row.label: (row.setting, str(row.reconstruction)) for row in table.rows
    }
    assert "Our reconstruction: grad_cl, stage grad_cl." in told(table)["table.md"]


@pytest.mark.parametrize("system", [None, *SYSTEMS.names()])
def test_a_row_may_see_what_its_system_and_its_method_see_together(tmp_path, system):
    card = SYSTEMS.get(system).card if system is not None else None
    section = None if system is None else dict(adapted(tmp_path, "", system).cell.config.adapt)
    configs = {
        method: planned(tmp_path, "", {"method": method, "adapt": section}).cell.config
        for method in ("no_adapt", "tent", "fda")
    }
    rights = {method: rights_of(config) for method, config in configs.items()}
    parts = {method: {*each.may_see.split(", ")} for method, each in rights.items()}
    base = parts["no_adapt"] - {"nothing"}
    assert parts["tent"] == base | {"the test image"}
    assert parts["fda"] == base | {"the test image", "a bank of source images"}
    assert rights["tent"].setting == (card.setting if card else "tta")
    covered = card is not None and card.needs_source
    assert rights["fda"].setting == rights["tent"].setting + "+bank" * (not covered)
    tags = {method: about_cell(config, 0, "key").tags for method, config in configs.items()}
    assert all(f"setting {rights[method].setting}" in tags[method] for method in configs)


def test_a_table_of_test_images_alone_is_as_it_was(tmp_path):
    table = build_table(simple_plan(tmp_path, {"no_adapt": 0.0, "tent": 1.0}))
    for name, text in told(table).items():
        assert "may see" not in text, name
        assert "reconstruction" not in text, name


def test_the_shipped_table_is_grouped_by_setting_from_nothing_to_all_labels(tmp_path):
    rows = build_table(plan("settings", ["source=D", f"results_root={tmp_path}"])).rows
    settings = [setting for setting, _ in groupby(rows, lambda row: row.setting)]
    assert settings == ["none", "tta", "tta+bank", "sfda", "uda", "sda"]
    seen = {row.label: row.may_see for row in rows}
    assert (seen["fda then grata"], seen["mmtl, 32 labels"], seen["oracle, all labels"]) == (
        "the test image, a bank of source images",
        "source images, source labels, 32 target labels",
        "all target labels",
    )
