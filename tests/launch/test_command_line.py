"""A command line as a user types it becomes the runs that it stands for."""

import shlex

import pytest

from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.composition import composer
from tta_bench.launch.grammar import quote_lists
from tta_bench.launch.keys import compose_data
from tta_bench.methods.options import default_options
from tta_bench.runtime.paths import CONFIG_DIR


def jobs(text, **options):
    """The validated configurations of a command line as a user types it in a shell."""
    words = shlex.split(text)
    multirun = "-m" in words
    return check(quote_lists([word for word in words if word != "-m"], multirun), multirun=multirun, **options)


def faults(text, **options):
    with pytest.raises(UserError) as refused:
        jobs(text, **options)
    return refused.value.faults


# Quoting


@pytest.mark.parametrize(
    ("typed", "multirun", "handed_over"),
    [
        ("target=A,C", False, "target=[A,C]"),
        ("target=A,C", True, "target=[A,C]"),
        ("target=A, C", False, "target=[A,C]"),
        ("++target=A,C", False, "target=[A,C]"),
        ("target=A", False, "target=[A]"),
        ("target=[A,C]", False, "target=[A,C]"),
        ("target=[A,C],[B]", True, "target=[A,C],[B]"),
        ("target='A,C'", False, "target=['A,C']"),
        ("target='A,C',D", False, "target=['A,C',D]"),
        ("seed=0,1", False, "seed=[0,1]"),
        ("seed=0,1", True, "seed=0,1"),
        ("source=A,B", True, "source=A,B"),
        ("method=grata", False, "+method=grata"),
        ("+method=grata", False, "+method=grata"),
        ("++method=grata", False, "+method=grata"),
        ("method.learning_rate=1", False, "method.learning_rate=1"),
        ("+data=folder", False, "data=folder"),
        ("+experiment=first_look", False, "experiment=first_look"),
        ("data.classes={vessel: [1]}", False, """data.classes='{"vessel": [1]}'"""),
        ("data.classes={a:[1]},{b:[2]}", True, """data.classes='{"a": [1]}','{"b": [2]}'"""),
        ("data.classes={broken", False, "data.classes={broken"),
        ("", False, ""),
    ],
)
def test_the_forgiving_grammar_is_translated_into_hydras(typed, multirun, handed_over):
    assert quote_lists([typed], multirun) == [handed_over]


# What is accepted


@pytest.mark.parametrize("method", ["+method=tent", "method=tent", "++method=tent"])
def test_a_method_is_chosen_with_and_without_plus(method):
    (config,) = jobs(method)
    assert config.method["name"] == "tent"
    assert (config.source, config.target, config.seed) == ("D", ("A", "B", "C", "E"), (0,))


@pytest.mark.parametrize("flag", ["", "-m "])
@pytest.mark.parametrize("targets", ["A,C", "[A,C]", "'A, C'", "\"'A','C'\""])
def test_targets_are_a_list_with_and_without_a_sweep(flag, targets):
    (config,) = jobs(f"{flag}+method=tent target={targets}")
    assert config.target == ("A", "C")


def test_lists_of_targets_can_be_swept_over():
    assert [config.target for config in jobs("-m +method=tent target=[A,C],[B]")] == [("A", "C"), ("B",)]


def test_seeds_are_a_list_in_one_run_and_jobs_in_a_sweep():
    assert [config.seed for config in jobs("+method=tent seed=0,1")] == [(0, 1)]
    assert [config.seed for config in jobs("-m +method=tent seed=0,1")] == [(0,), (1,)]
    assert [config.seed for config in jobs("-m +method=tent seed=range(0,3)")] == [(0,), (1,), (2,)]


def test_a_sweep_is_every_combination():
    configs = jobs("-m +method=tent,grata source=A,B protocol.reset=image,target")
    found = {(config.method["name"], config.source, config.protocol.reset) for config in configs}
    assert len(configs) == len(found) == 8
    assert all(config.source not in config.target for config in configs)


def test_an_experiment_is_a_sweep_that_the_command_line_overrules():
    assert len(jobs("experiment=first_look")) == 20
    assert [c.method["name"] for c in jobs("experiment=first_look source=D")] == [
        "no_adapt",
        "bn_only",
        "tent",
        "grata",
    ]
    with pytest.raises(UserError, match="'method': the rows of experiment=first_look choose it"):
        jobs("experiment=first_look +method=tent source=A,B")
    assert {config.seed for config in jobs("experiment=first_look source=D seed=3,4")} == {(3, 4)}


@pytest.mark.parametrize("data", ["synthetic", "folder"])
def test_classes_given_replace_the_default_ones(data, tmp_path):
    (tmp_path / "D/image").mkdir(parents=True)
    (tmp_path / "E/image").mkdir(parents=True)
    root = f"data.root={tmp_path}" if data == "folder" else ""
    (config,) = jobs(f"+method=tent data={data} {root} 'data.classes={{vessel: [1, 2]}}'")
    assert config.data.classes == {"vessel": (1, 2)}


def test_a_single_class_can_be_added_to_the_default_ones():
    (config,) = jobs("+method=tent +data.classes.rim=[1]")
    assert list(config.data.classes) == ["disc", "cup", "rim"]


def test_the_class_of_a_folder_is_foreground_by_default(tmp_path):
    for name in ("1", "2"):
        (tmp_path / name / "image").mkdir(parents=True)
    (config,) = jobs(f"+method=tent data=folder data.root={tmp_path} source=1")
    assert config.data.classes == {"foreground": (1,)}
    assert (config.source, config.target) == ("1", ("2",)), "domains may be called by numbers"


def test_a_tilde_in_a_path_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (config,) = jobs("+method=tent results_root=~/results")
    assert config.results_root == tmp_path / "results"


def test_keys_of_hydra_itself_are_left_to_hydra():
    assert len(jobs("+method=tent hydra.verbose=true hydra.sweep.dir=somewhere")) == 1


def test_yaml_files_of_ones_own_are_found_in_another_config_folder(tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method/fast_tent.yaml").write_text("defaults: [tent]\nlearning_rate: 0.5\n")
    (config,) = jobs("+method=fast_tent", config_dir=str(tmp_path))
    assert config.method == {**vars(default_options("tent")), "name": "tent", "learning_rate": 0.5}
    assert faults("+method=fast_tnt", config_dir=str(tmp_path)) == (
        "unknown method=fast_tnt: did you mean 'fast_tent'?",
    )
    assert faults("+method=tent", config_dir=str(tmp_path / "none"))[0].endswith("is not a folder")


def test_a_wrong_key_of_ones_own_file_is_told_with_the_file(tmp_path):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data/own.yaml"
    path.write_text("defaults: [synthetic]\nintensity: {precentile: [1, 99]}\n")
    (sentence,) = faults("+method=tent data=own", config_dir=str(tmp_path))
    told = "unknown key 'data.intensity.precentile': did you mean 'data.intensity.percentile'?"
    assert sentence == f"{path}: {told}"
    assert faults("+method=tent data=own data.intensity={precentil: [1, 9]}", config_dir=str(tmp_path))[0] != sentence


def test_a_file_of_the_user_s_counts_where_the_shipped_one_was_composed_before(tmp_path):
    shipped = (CONFIG_DIR / "method/tent.yaml").read_text()
    (tmp_path / "method").mkdir()
    (tmp_path / "method/tent.yaml").write_text(shipped.replace("learning_rate: 1.0e-4", "learning_rate: 0.5"))
    for folder, rate in ((None, 1e-4), (str(tmp_path), 0.5), (None, 1e-4)):
        (config,) = jobs("+method=tent", config_dir=folder)
        assert config.method["learning_rate"] == rate


def test_a_change_of_a_configuration_does_not_reach_the_next_one():
    with composer() as hydra:
        changed = hydra.compose(["+method=tent"])
        changed.method.learning_rate = 0.5
        assert hydra.compose(["+method=tent"]).method.learning_rate == 1e-4


# The commands without a method


def test_the_data_section_is_composed_and_checked_alone(tmp_path):
    config, root = compose_data(
        ["data=folder", f"data.root={tmp_path}", "data.classes={vessel: [1]}", "results_root=x"]
    )
    assert (config.name, config.classes, str(root)) == ("folder", {"vessel": (1,)}, "x")


def test_the_jobs_of_a_sweep_are_those_that_are_composed_one_by_one():
    words = ["+method=grata", "source=A", "training.epochs=3", "method.strong_augmentation.blur.p=1"]
    swept = check([*words, "data.limit=range(1,4)", "seed=5,[6,7]"])
    singly = [check([*words, f"data.limit={n}", f"seed={seed}"]) for n in (1, 2, 3) for seed in ("5", "[6,7]")]
    assert swept == [config for (config,) in singly]
