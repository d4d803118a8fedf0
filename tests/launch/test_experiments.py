"""The tables and figures of the paper as files: their rows, their cells, and the paper's numbers beside them."""

import json
import re
from itertools import permutations

import pytest
from hydra import compose
from omegaconf import OmegaConf

from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.composition import composer, register_configs
from tta_bench.launch.experiment_files import read_experiments
from tta_bench.launch.experiments import plan
from tta_bench.methods.base import METHODS
from tta_bench.objectives.base import OBJECTIVES
from tta_bench.runtime.composed import composed_file
from tta_bench.runtime.paths import CONFIG_DIR

EXPERIMENTS = read_experiments()
TABLES = [f"table{number}" for number in range(1, 6)]


@pytest.fixture(scope="module")
def plans():
    """Every table of the paper, for source D."""
    return {name: plan(name, ["source=D"]) for name in TABLES}


def hashes(table, row):
    return [planned.cell.folder().hash for planned in table.cells if planned.row == row]


def test_there_is_a_file_for_every_table_and_figure_and_for_what_goes_beyond():
    beyond = {"extended", "order", "seeds", "beta", "first_look", "search", "learning_rate", "settings"}
    assert {*TABLES, "figure3", "figure4", *beyond} <= set(EXPERIMENTS)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_the_paper_has_its_own_in_the_table(name):
    experiment = EXPERIMENTS[name]
    assert experiment.paper
    assert set(experiment.paper) <= set(experiment.rows) - set(experiment.controls)
    assert all(set(row) == {*"ABCDE", "average"} for row in experiment.paper.values())


def test_the_paper_s_averages_are_those_of_its_sources():
    for name in TABLES:
        for label, row in EXPERIMENTS[name].paper.items():
            assert sum(row[source] for source in "ABCDE") / 5 == pytest.approx(row["average"], abs=0.016), (name, label)


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_no_adaptation_and_test_image_statistics_are_in_every_table(name):
    methods = [row["method"] for row in EXPERIMENTS[name].rows.values()]
    assert {"no_adapt", "bn_only"} <= set(methods)
    assert EXPERIMENTS[name].reference in EXPERIMENTS[name].rows


def test_table_5_is_its_thirty_ordered_pairs_exactly(plans):
    own = [planned.cell.config for planned in plans["table5"].cells if planned.row.startswith("pseudo=")]
    pairs = [(config.method["pseudo"], config.method["auxiliary"]) for config in own]
    assert len(pairs) == 30
    assert set(pairs) == set(permutations({*OBJECTIVES.names()} - {"regeneration"}, 2)), "of the paper's"
    for planned in plans["table5"].cells:
        if planned.row.startswith("pseudo="):
            pseudo, auxiliary = (part.partition("=")[2] for part in planned.row.split())
            assert planned.cell.config.method["pseudo"].startswith(pseudo)
            assert planned.cell.config.method["auxiliary"].startswith(auxiliary)


def test_the_cell_of_grata_is_the_same_in_all_five_tables(plans):
    rows = {
        "table1": "grata",
        "table2": "consistency aligned with entropy | dynamic eta",
        "table3": "consistency aligned with entropy | dynamic eta",
        "table4": "square (x+1)^2/4",
        "table5": "pseudo=con aux=ent",
    }
    assert len({hashes(plans[name], row)[0] for name, row in rows.items()}) == 1


def test_cells_are_shared_wherever_rows_are_the_same(plans):
    assert hashes(plans["table3"], "entropy | constant beta") == hashes(plans["table1"], "tent")
    assert hashes(plans["table3"], "entropy aligned with consistency | dynamic eta") == hashes(
        plans["table5"], "pseudo=ent aux=con"
    )
    assert hashes(plans["table4"], "constant 1") == hashes(
        plans["table2"], "consistency aligned with entropy | constant beta"
    )
    assert [p.cell.folder().hash for p in plan("figure3", ["source=D"]).cells] == [
        hashes(plans["table1"], row)[0] for row in EXPERIMENTS["figure3"].rows
    ]


def test_a_deterministic_method_has_one_cell_for_both_seeds_of_table_1(plans):
    assert {row: len(hashes(plans["table1"], row)) for row in EXPERIMENTS["table1"].rows} == {
        row: 1 + METHODS.get(row).card.stochastic for row in EXPERIMENTS["table1"].rows
    }


def test_the_extended_table_has_every_registered_method_once():
    assert list(EXPERIMENTS["extended"].rows) == METHODS.names()


def test_the_rows_of_a_table_differ_from_each_other(plans):
    for name, table in plans.items():
        cells = [planned.cell.folder().hash for planned in table.cells]
        assert len(set(cells)) == len(cells), name
    for name, experiment in EXPERIMENTS.items():
        assert len({json.dumps(row, sort_keys=True) for row in experiment.rows.values()}) == len(experiment.rows), name


def test_without_a_source_every_domain_of_the_data_is_one(tmp_path):
    for domain in ("X", "Y", "Z"):
        for kind in ("image", "mask"):
            (tmp_path / domain / kind).mkdir(parents=True)
    planned = plan("first_look", ["data=folder", f"data.root={tmp_path}"])
    assert {p.cell.config.source for p in planned.cells} == {"X", "Y", "Z"}
    assert len(planned.cells) == 12
    assert {p.cell.config.source for p in plan("first_look").cells} == set("ABCDE")


def test_a_plan_has_the_cells_of_the_sweep_in_its_order():
    swept = [config.method["name"] for config in check(["experiment=table3", "source=D,A"])]
    assert [planned.cell.config.method["name"] for planned in plan("table3", ["source=D,A"]).cells] == swept


def test_an_unknown_table_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'table1'"):
        plan("tabel1")


@pytest.mark.parametrize("override", ["+method=tent", "method.pseudo=entropy"])
def test_what_the_rows_are_there_to_vary_cannot_be_overruled(override):
    with pytest.raises(UserError, match="the rows of experiment=table5 choose"):
        plan("table5", [override])


@pytest.mark.parametrize(
    ("override", "unchanged"),
    [
        ("method.preset=official", {"no_adapt", "bn_only", "medbn"}),
        ("method.strong_augmentation.blur.p=1.0", {"no_adapt", "bn_only", "medbn", "diga", "tent", "sar"}),
    ],
)
def test_an_option_changes_the_rows_whose_method_has_it(override, unchanged):
    cells = [
        [(p.row, p.cell.folder().path) for p in plan("table1", ["source=D", *more]).cells] for more in ([], [override])
    ]
    same = {row for row, _ in set(cells[0]) & set(cells[1])}
    assert unchanged <= same
    assert "grata" not in same


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("method.entrpy_form=binary", "unknown key 'method.entrpy_form': did you mean 'method.entropy_form'?"),
        ("method.entropy_form=binry", "method.entropy_form='binry': input should be 'positive' or 'binary'"),
        ("method.name=tent", "'method.name' alone cannot be set"),
    ],
)
def test_a_wrong_option_of_an_experiment_is_refused(override, fault):
    with pytest.raises(UserError, match=re.escape(fault)):
        plan("table2", ["source=D", override])


def test_what_all_rows_share_can_be_overruled():
    planned = plan("table4", ["source=D", "data.limit=3", "protocol.reset=image"])
    assert {p.cell.config.data.limit for p in planned.cells} == {3}
    assert {p.cell.config.protocol.reset for p in planned.cells} == {"image"}


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_an_experiment_of_rows_says_nothing_but_what_to_sweep_over(name):
    assert list(EXPERIMENTS[name].sweep_config()) == ["hydra"], "composing a run of it leaves it out"


@pytest.mark.parametrize("choice", ["settings_01", "settings_07", "settings_12"])
def test_a_launcher_s_hydra_composes_a_row_to_what_we_do(choice):
    with composer() as ours:
        register_configs(["experiment=settings"])
        by_hydra = compose("config", [f"+row={choice}"])
        by_us = ours.compose([f"+row={choice}"])
    assert OmegaConf.to_container(by_hydra) == OmegaConf.to_container(by_us)


def test_the_file_of_a_method_or_a_system_sets_nothing_but_its_own_section():
    """So its section put into what all runs share is what Hydra makes of both together."""
    names = {group: sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml")) for group in ("method", "adapt")}
    with composer():
        shared = OmegaConf.to_container(compose("config"))
        words = [f"+{group}@{group}_sections.{name}={name}" for group in names for name in names[group]]
        everything = OmegaConf.to_container(compose("config", words))
    sections = {group: everything.pop(f"{group}_sections") for group in names}
    assert everything == shared
    assert sections == {
        group: {name: OmegaConf.to_container(composed_file(group, name)) for name in names[group]} for group in names
    }
