"""Experiments of users: a YAML file anywhere, in ``--config-dir``, or of a plug-in; wrong ones are refused."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tta_bench.errors import UserError
from tta_bench.launch import catalogue, experiment_files
from tta_bench.launch.check import check
from tta_bench.launch.experiment_files import read_experiments
from tta_bench.launch.experiments import plan
from tta_bench.launch.grammar import quote_lists
from tta_bench.report.write import states

ROOT = Path(__file__).parents[2]
OWN = """# How much the rate matters.
rows:
  tent: {method: tent}
  fast: {method: tent, method.learning_rate: 1.0e-2}
  3 steps: {method: tent, protocol.steps: 3}
sweep: {training.seed: [0, 1]}
"""


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    monkeypatch.setattr(experiment_files, "_given", {})


@pytest.fixture
def own(tmp_path):
    """The path of a file with a space in its folder."""
    (tmp_path / "my tables").mkdir()
    path = tmp_path / "my tables/rates.yaml"
    path.write_text(OWN)
    return path


def cells(planned):
    return [(each.row, each.cell.folder().hash) for each in planned.cells]


def test_a_file_anywhere_is_a_table_and_runs_the_cells_of_its_plan(own, monkeypatch):
    planned = plan(str(own), ["source=A"])
    assert {row for row, _ in cells(planned)} == {"tent", "fast", "3 steps", "no_adapt", "bn_only"}
    assert len(planned.cells) == 10
    assert planned.experiment.description == "How much the rate matters."
    assert planned.experiment.word == str(own)
    monkeypatch.chdir(own.parent)
    assert cells(plan("rates.yaml", ["source=A"])) == cells(planned)
    run = check(quote_lists(["experiment=./rates.yaml", "source=A"], multirun=False))
    assert [(c.method["name"], c.protocol.steps) for c in run] == [
        (each.cell.config.method["name"], each.cell.config.protocol.steps) for each in planned.cells
    ]


def test_a_folder_of_one_s_own_configuration_brings_experiments_by_name(own):
    (own.parent / "experiments").mkdir()
    own.rename(own.parent / "experiments/rates.yaml")
    folder = str(own.parent)
    assert len(plan("rates", ["source=A"], folder).cells) == 10
    quoted = quote_lists(["experiment=rates", "source=A"], multirun=False, config_dir=folder)
    assert len(check(quoted, config_dir=folder)) == 10


def test_a_plug_in_brings_experiments_and_a_broken_one_stops_nothing(own, monkeypatch, caplog):
    package = own.parent / "their_tables"
    (package / "experiments").mkdir(parents=True)
    (package / "__init__.py").touch()
    own.rename(package / "experiments/rates.yaml")
    (package / "experiments/broken.yaml").write_text("rows: 3")
    (package / "experiments/table1.yaml").write_text(OWN)
    monkeypatch.syspath_prepend(own.parent)
    entry = SimpleNamespace(name="theirs", module="their_tables")
    monkeypatch.setattr(catalogue, "entry_points", lambda group: [entry] if group.endswith(".metrics") else [])
    experiment_files._installed.cache_clear()
    try:
        assert "rates" in read_experiments()
        assert "broken" not in read_experiments()
        assert len(plan("rates", ["source=A"]).cells) == 10
        assert len(plan("table1", ["source=A", "training.seed=0"]).cells) > 12, "the one that is shipped"
        assert "plug-in theirs brings experiment=table1, which exists: rename it" in caplog.text
        assert "broken.yaml: 'rows' is missing or empty" in caplog.text
    finally:
        experiment_files._installed.cache_clear()
        sys.modules.pop("their_tables", None)


def test_the_reference_is_the_row_that_does_nothing_whatever_it_is_called(tmp_path):
    (tmp_path / "named.yaml").write_text("rows: {as it is: {method: no_adapt}, tent: {method: tent}}")
    experiment = plan(str(tmp_path / "named.yaml"), ["source=A"]).experiment
    assert (experiment.reference, experiment.controls) == ("as it is", ("bn_only",))


WRONG = {
    "rows: ]": "own.yaml, line 1, column 7 is no YAML",
    "- 3": "holds no experiment: give it rows, for example rows: {tent: {method: tent}}",
    "row: {}": "unknown key 'row': did you mean 'rows'?",
    "rows: {}": "'rows' is missing or empty",
    "rows: {a: {method: tnt}}": "rows.a: unknown method 'tnt': did you mean 'tent'?",
    "rows: {a: tent}": "rows.a has no method: write {method: NAME}",
    "rows: {1: {method: tent}}": "rows.1: a label is text: put it in quotation marks",
    "rows: {a: {method: tent}, a: {method: grata}}": "line 1, column 27 is no YAML: 'a' stands twice",
    "rows: {a: {method: tent, method.lerning_rate: 1}}": "rows.a: unknown key 'method.lerning_rate': did you mean "
    "'method.learning_rate'?",
    "rows: {a: {method: tent, protocol.stps: 1}}": "rows.a: unknown key 'protocol.stps': did you mean 'protocol.steps'",
    "rows: {a: {method: tent, prtocol.steps: 1}}": "rows.a: unknown key 'prtocol.steps': did you mean 'protocol'?",
    "rows: {a: {method: tent, model: unet}}": "rows.a: 'model' is a group: set its keys, such as model.name",
    "rows: {bn_only: {method: tent}}": "rows.bn_only is the name of a control: choose another",
    "rows: {a: {method: tent}}\nreference: b": "reference=b is no row: choose one of: a, bn_only, no_adapt",
    "rows: {a: {method: tent}}\npaper: 9": "paper=9: choose one of: 1, 2, 3, 4, 5",
    "rows: {a: {method: tent}}\nsweep: data": "'sweep' lists no keys: write KEY: VALUE,VALUE",
    "rows: {a: {method: tent}}\nsweep: {data.seed: }": "sweep.data.seed has no values: separate them with commas",
    "rows: {a: {method: tent}}\nsweep: {data.sed: 3}": "unknown key 'data.sed': did you mean 'data.seed'?",
    "rows: {a: {method: tent}}\nsweep: {'method.learning_rate': '1,2'}": "'method.learning_rate': not every row has it",
    "rows: {a: {method: tent}}\nsweep: {adapt.epochs: 3}": "'adapt.epochs': not every row has it",
    "rows: {a: {method: tent, adapt: cbmt}}\nsweep: {adapt.epochs: 3}": "'adapt.epochs': not every row has it",
    "rows: {a: {method: tent, method.learning_rate: -1}}": "method.learning_rate=-1",
    "rows: {a: {method: tent}, b: {method: tent, protocol.evaluation: held_out}}": "row 'b' has protocol.evaluation="
    "held_out, but row 'a' has protocol.evaluation=all: give protocol.evaluation one value for all rows",
    "rows: {a: {method: tent, results_root: elsewhere}}": "rows.a: 'results_root' is of the whole table: give it on the"
    " command line",
    "rows: {a: {method: tent}, b: {method: tent, target: [C]}}": "row 'b', source A has target=C, but row "
    "'a' has target=B,C,D,E: give target one value",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_wrong_file_is_refused_with_file_key_and_remedy(tmp_path, text):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(WRONG[text])) as refused:
        plan(str(path), ["source=A"])
    assert all(str(path) in fault for fault in refused.value.faults)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("table1", "experiment=table1 exists: rename the file"), ("my table", "rename the file, with letters, digits")],
)
def test_a_file_whose_name_cannot_be_a_choice_is_to_be_renamed(own, name, sentence):
    with pytest.raises(UserError, match=sentence):
        plan(str(own.rename(own.with_stem(name))))


def test_a_file_that_is_not_there_is_told_with_what_there_is(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml is no file: check the path, or choose one of: beta, "):
        plan(str(tmp_path / "none.yaml"))


def test_the_example_of_the_documentation_is_a_table(tmp_path):
    text = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/experiments.md").read_text(), re.DOTALL)[1]
    (tmp_path / "example.yaml").write_text(text)
    planned = plan(str(tmp_path / "example.yaml"), ["source=D"])
    assert len(planned.cells) == 2 * 6
    added = [state.row for state in states(planned)][2 * 6 :]
    assert added == ["no_adapt beside tent, three steps"] * 2
    assert planned.experiment.reference == "bn_only"
