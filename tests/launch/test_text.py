"""Names and paths are text, from the command line to the cells of a plan."""

import re
import unicodedata

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from awkward import NAMES, sites, typed
from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.experiment_files import Experiment
from tta_bench.launch.experiments import plan
from tta_bench.launch.grammar import domains_at_hand, quote_lists
from tta_bench.launch.text import hydra_text, quote_lists_of_names, quote_mappings, split, text_kind


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return sites(tmp_path_factory.mktemp("sites"))


def read(word):
    """The value of an argument after Hydra and OmegaConf."""
    value = OverridesParser.create().parse_override(word).value()
    return OmegaConf.to_container(OmegaConf.create({"value": value}), resolve=True)["value"]


def swept(word):
    """The values of a sweep, each as Hydra hands it to a job."""
    values = OverridesParser.create().parse_override(word).sweep_string_iterator()
    return [read(f"key={value}") for value in values]


def test_the_keys_that_are_text_are_those_of_names_and_paths():
    assert all(map(text_kind, ("source", "checkpoint", "results_root", "data.root", "group", "protocol.reset")))
    assert all(map(text_kind, ("logger.wandb.project", "logger.csv.path")))
    assert not any(map(text_kind, ("target", "seed", "method", "data.limit", "force", "logger.wandb", "logger.x.y")))


@pytest.mark.parametrize("name", [*NAMES, "/a/b", "C:\\x\\", "A,'B", ""])
def test_hydra_reads_every_name_as_it_is(name):
    assert read(f"source={hydra_text(name)}") == name
    assert swept(f"source={hydra_text(name)},{hydra_text('A')}") == [name, "A"]
    assert read(f"target=[{hydra_text(name)},A]") == [name, "A"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_at_hand_is_meant_as_typed_and_every_name_in_quotation_marks(root, name):
    data = ["data=folder", f"data.root={root}"]
    *_, source, target = quote_lists([*data, f"source={name}", f"target={name}"], multirun=False)
    assert (read(source), read(target)) == (name, [name])
    *_, source, target = quote_lists([*data, f"source={typed(name)}", f"target={typed(name)},11"], multirun=False)
    assert (read(source), read(target)) == (name, [name, "11"])
    assert split(f"{typed(name)} , A") == [name, "A"], "also where nothing of that name is at hand"


def test_every_name_comes_through_a_sweep_a_plan_and_the_targets_of_a_run(root):
    data = ["data=folder", f"data.root={root}"]
    names = ",".join(map(typed, NAMES))
    configs = check(quote_lists(["+method=no_adapt", *data, f"source={names}"], multirun=True))
    assert [config.source for config in configs] == list(NAMES)
    assert all({config.source, *config.target} == set(NAMES) for config in configs)
    (config,) = check(
        quote_lists(["+method=no_adapt", *data, "source=11", f"target={names}"], False)[:-1], multirun=False
    )
    assert config.source == "11"
    (one,) = check(
        quote_lists(["+method=no_adapt", *data, "source=${x}", "target=a,b,c,'a,b',1_1"], False), multirun=False
    )
    assert (one.source, one.target) == ("${x}", ("a,b,c", "a,b", "1_1"))


def test_an_experiment_has_every_domain_as_a_source(tmp_path):
    names = {"1_1", "11", "a,b", "${x}", "Zürich", "A#1", "a{b", "null", "\\'", "???"}
    planned = plan("first_look", ["data=folder", f"data.root={sites(tmp_path, names)}"])
    assert {one.cell.config.source for one in planned.cells} == names


def test_composed_and_decomposed_names_are_the_same_domain(root):
    data = ["+method=no_adapt", "data=folder", f"data.root={root}"]
    zurich, munich = (unicodedata.normalize(form, name) for form, name in (("NFD", "Zürich"), ("NFC", "München")))
    (config,) = check(quote_lists([*data, f"source={zurich}", f"target={munich}"], False), multirun=False)
    assert (config.source, config.target) == ("Zürich", ("Mu\N{COMBINING DIAERESIS}nchen",)), "as on disk"
    for words, told in (
        (quote_lists([*data, f"source={zurich}", "target=Zürich"], False), "target=Zürich is also the source"),
        (
            [data[0], data[1], f"data.root={hydra_text(str(root))}", f"source='{zurich}'", "target=['Zürich']"],
            "name it once",
        ),
    ):
        with pytest.raises(UserError, match=told):
            check(words, multirun=False)


def test_a_sweep_of_an_experiment_file_names_domains_as_text(root):
    experiment = Experiment(
        "mine", "", {"no_adapt": {"method": "no_adapt"}}, (), {"source": "1_1,'a,b','${x}',Zürich"}, {}, ""
    )
    params = OmegaConf.create(experiment.sweep_config())["hydra"]["sweeper"]["params"]
    assert swept(f"source={params['source']}") == ["1_1", "a,b", "${x}", "Zürich"]


@pytest.mark.parametrize("name", ["ü", "a b", "a = b", "[x] (y)", "a,b", "{x}", "1e3", "null_", "${x}", "it's", "-x"])
def test_a_path_needs_no_quotation_marks_and_its_fault_is_told_once(tmp_path, monkeypatch, name):
    monkeypatch.chdir(sites(tmp_path, [f"{name}/D", f"{name}/E"]))
    for text in (name, str(tmp_path / name), typed(name)):
        (word,) = quote_lists([f"data.root={text}"], multirun=True)
        assert read(word) in (name, str(tmp_path / name))
    (word,) = quote_lists([f"results_root={name}, new"], multirun=True)
    assert read(word) == f"{name}, new", "it need not be there yet"
    if "," not in name:
        with pytest.raises(UserError) as refused:
            check(quote_lists(["+method=no_adapt", "data=folder", f"data.root={name}/no"], False), multirun=False)
        assert refused.value.faults == (f"data.root={name}/no does not exist: give the folder of the images",)


def test_a_path_may_refer_to_other_keys_and_to_the_environment(monkeypatch):
    monkeypatch.setenv("SITES", "/none")
    for text, told in (
        ("${oc.env:SITES}/${source}.ckpt", "/none/D.ckpt"),
        ("${nope}", "${nope}"),
        ("${source", "${source"),
    ):
        with pytest.raises(UserError, match=re.escape(f"checkpoint={told} is no file")):
            check(quote_lists(["+method=no_adapt", f"checkpoint={text}"], False), multirun=False)


@pytest.mark.parametrize(
    ("typed_text", "value"),
    [
        ("{a: [1, 2]}", '{"a": [1, 2]}'),
        ("{a:[1],b:[2]}", '{"a": [1], "b": [2]}'),
        ("{1_1: [1], null: [2], 'x: y': [3], Zürich: [4]}", '{"1_1": [1], "null": [2], "x: y": [3], "Zürich": [4]}'),
        ("'{a: [1]}'", '{"a": [1]}'),
        ("{1_1: 1e3, 😀: '${x}'}", '{"1_1": "1e3", "😀": "${x}"}'),
    ],
)
def test_the_keys_of_a_mapping_are_text(typed_text, value):
    assert read(quote_mappings("data.classes", typed_text)) == value


@pytest.mark.parametrize("text", ["[A", "[A]]", "[A],B", "[[A]]x", "[A]B"])
def test_brackets_that_do_not_match_are_no_list(text):
    with pytest.raises(ValueError, match="is missing"):
        quote_lists_of_names("target", text)


def test_sweeps_of_other_keys_are_left_to_hydra():
    words = ["seed=range(0,3)", "method.learning_rate=choice(1e-3,1e-4)", "hydra.sweep.dir=${results_root}/x"]
    assert quote_lists(words, multirun=True) == words


def test_a_name_that_is_not_utf_8_is_refused_by_name():
    with pytest.raises(UserError, match=r"'source=\\udcff' is not UTF-8 text"):
        quote_lists(["+method=no_adapt", "source=\udcff"], multirun=False)


def test_the_domains_at_hand_are_those_that_the_data_arguments_choose(root):
    assert domains_at_hand([]) == ("A", "B", "C", "D", "E")
    assert set(domains_at_hand(["data=folder", f"data.root={hydra_text(str(root))}"])) == set(NAMES)
    assert domains_at_hand(["data=folder", "data.root=/none"]) == ()
    assert domains_at_hand(["data=synthetic,folder"]) == ()
