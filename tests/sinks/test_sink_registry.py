"""A sink is one file and one YAML: everything that holds for W&B holds for any other."""

import pytest

from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.grammar import quote_lists, with_group
from tta_bench.offline.base import SYSTEMS
from tta_bench.sinks.about import about_cell, about_stage, changes
from tta_bench.sinks.base import SINKS, options_of, sink_faults


def configure(*words, multirun=False, config_dir=None):
    overrides = quote_lists(["+method=tent", *words], multirun, config_dir)
    return check(with_group(overrides, multirun), multirun=multirun, config_dir=config_dir)


def test_several_are_chosen_at_once_and_never_swept_over():
    for words in (["logger=wandb,csv"], ["logger=[wandb,csv]"]):
        for multirun in (False, True):
            (config,) = configure(*words, "logger.wandb.mode=offline", multirun=multirun)
            assert list(config.logger) == ["wandb", "csv"]
            assert config.logger["wandb"]["mode"] == "offline"
    (config,) = configure()
    assert config.logger == {}
    with pytest.raises(UserError, match="unknown logger=cvs: did you mean 'csv'"):
        configure("logger=wandb,cvs")


@pytest.mark.parametrize("name", SINKS.names())
def test_the_yaml_of_a_sink_fits_its_options(name):
    (config,) = configure(f"logger={name}", "results_root=else")
    assert options_of(name, config.logger[name]).model_dump(mode="json") == config.logger[name]


def test_the_group_is_what_is_swept_over_or_as_given():
    sweep = ("source=A,B", "logger=csv", "target=[C]", "method.learning_rate=1e-3,1e-2")
    assert {one.group for one in configure(*sweep, multirun=True)} == {"source=A,B method.learning_rate=1e-3,1e-2"}
    assert {one.group for one in configure(*sweep, "group=mine", multirun=True)} == {"mine"}
    assert configure("logger=csv")[0].group is None
    assert with_group(["experiment=first_look", "logger=csv"], True)[-1] == "group=first_look"


def test_a_yaml_of_one_s_own_chooses_it_and_its_keys_are_checked_before_any_work(kept, tmp_path):
    (tmp_path / "logger").mkdir()
    (tmp_path / "logger/kept.yaml").write_text("# @package logger.kept\npath: results.csv\nmode: null\n")
    (config,) = configure("logger=kept", "logger.kept.mode=x", config_dir=str(tmp_path))
    assert config.logger == {"kept": {"path": "results.csv", "mode": "x"}}
    with pytest.raises(UserError, match=r"unknown key 'logger.kept.pth': did you mean 'logger.kept.path'\?"):
        configure("logger=kept", "logger.kept.pth=x", config_dir=str(tmp_path))
    (config,) = configure("logger=kept", "logger.kept.path=null", config_dir=str(tmp_path))
    assert config.logger["kept"]["path"] == "null", "a name is text, whatever it looks like"


def test_an_unknown_sink_is_refused_with_the_nearest():
    assert sink_faults({}) == []
    assert sink_faults({"wandbb": {}}) == ["unknown sink 'wandbb': did you mean 'wandb'?"]
    assert sink_faults({"wandb": {"entitty": "me"}})[-1:] == [
        "unknown key 'logger.wandb.entitty': did you mean 'logger.wandb.entity'?",
    ]


@pytest.mark.parametrize("system", SYSTEMS.names())
def test_a_system_is_named_by_what_differs_from_its_file(system):
    words = [f"adapt={system}", "protocol.evaluation=held_out", "source=C", "target=D"]
    words += ["stages=[A,C]"] * SYSTEMS.get(system).of_stages
    (config,) = configure(*words)
    assert not any(each.startswith("adapt.") for each in changes(config))


def test_runs_that_differ_in_labels_or_in_the_order_of_stages_have_names_of_their_own():
    words = ["adapt=fta", "protocol.evaluation=held_out", "target=D"]
    few, many = configure(*words, "source=C", "adapt.labels=2,32", multirun=True)
    assert about_cell(few, 0, "").name == "fta + tent adapt.labels=2 evaluation=held_out source=C target=D"
    assert about_stage(many, "D", "").name == "fta adapt.labels=32 C -> D"
    (staged,) = configure(*words, "source=C", "stages=[B,A,C]")
    about = about_cell(staged, 0, "")
    assert about.name.endswith(" stages=B,A,C")
    assert {"source A", "source B", "source C"} < {*about.tags}
