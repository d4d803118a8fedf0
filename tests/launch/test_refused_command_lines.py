"""A command line that cannot be is refused whole, before any work: every fault is a sentence with a remedy."""

import pytest
from omegaconf import OmegaConf
from test_command_line import faults

from tta_bench.errors import UserError
from tta_bench.launch.check import OF_SOURCE, check, compose_source
from tta_bench.launch.composition import composer
from tta_bench.launch.keys import below, compose_data
from tta_bench.runtime.values import flat


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("+method=grta", "unknown method=grta: did you mean 'grata'?"),
        ("+method=tent source=Q", "unknown source=Q: choose one of: A, B, C, D, E"),
        ("+method=tent target=A,Q", "unknown target=Q: choose one of: A, B, C, D, E"),
        ("+method=tent source=1", "unknown source=1: choose one of: A, B, C, D, E"),
        ("+method=tent source=", "unknown source=: choose one of: A, B, C, D, E"),
        (
            "-m +adapt=adabn,cbmt adapt.epochs=2",
            "'adapt.epochs': adapt=adabn has none: leave adabn out of the list, and run it on its own without "
            "adapt.epochs=",
        ),
        (
            "-m +method=tent,no_adapt method.learning_rate=1e-3",
            "'method.learning_rate': method=no_adapt has none: leave no_adapt out of the list, and run it on its own "
            "without method.learning_rate=",
        ),
        (
            "-m +method=tent model=resunet34,smp model.architecture=Unet",
            "'model.architecture': model=resunet34 has none: leave resunet34 out of the list, and run it on its own "
            "without model.architecture=",
        ),
        ("+method=tent taget=A", "unknown key 'taget': did you mean 'target'?"),
        ("+method=tent ++taget=A", "unknown key 'taget': did you mean 'target'?"),
        ("+method=tent data.limt=3", "unknown key 'data.limt': did you mean 'data.limit'?"),
        ("+method=tent +data.limt=3", "unknown key 'data.limt': did you mean 'data.limit'?"),
        (
            "+method=tent ++method.learning_rat=3",
            "unknown key 'method.learning_rat': did you mean 'method.learning_rate'?",
        ),
        (
            "+method=grata +method.strong_augmentation.noise.rnge=[0,1]",
            "unknown key 'method.strong_augmentation.noise.rnge': "
            "did you mean 'method.strong_augmentation.noise.range'?",
        ),
        (
            "+method=tent training.augmentation={flipp:true}",
            "unknown key 'training.augmentation.flipp': did you mean 'training.augmentation.flip'?",
        ),
        ("+method=tent image_size=64", "unknown key 'image_size': did you mean 'data.image_size'?"),
        ("+method=tent model=resnet34", "unknown model=resnet34: did you mean 'resunet34'?"),
        ("+method=tent model.encoder=resnet3", "unknown encoder model.encoder=resnet3: did you mean 'resnet34'?"),
        ("+method=tent data=foldr", "unknown data=foldr: did you mean 'folder'?"),
        ("+method=tent data=folder", "data=folder needs the folder of the images: add data.root=DIR"),
        ("+method=tent data=folder data.root=/none", "data.root=/none does not exist: give the folder of the images"),
        ("experiment=first_lok", "unknown experiment=first_lok: did you mean 'first_look'?"),
        (
            "+method=tent source=D target=A,D",
            "target=D is also the source: adaptation is measured on foreign domains; remove it from target",
        ),
        ("+method=tent target=A,A", "target lists A more than once: name it once"),
        ("+method=tent seed=1,1", "seed lists 1 more than once: name it once"),
        ("-m +method=tent source=A,A", "source lists A more than once: name it once"),
        ("+method=tent target=", "target is empty: name at least one, or leave target out"),
        ("+method=tent target=[]", "target is empty: name at least one, or leave target out"),
        ("+method=tent seed=[]", "seed is empty: name at least one, or leave seed out"),
        ("+method=tent seed=-1", "seed=-1: input should be greater than or equal to 0"),
        ("+method=tent seed=1.5", "seed=1.5: give a whole number"),
        ("+method=tent data.image_size=100", "data.image_size=100: input should be a multiple of 32"),
        ("+method=tent data.limit=0", "data.limit=0: input should be greater than or equal to 1"),
        ("+method=tent training.epochs=0", "training.epochs=0: input should be greater than or equal to 1"),
        ("+method=tent protocol.steps=0", "protocol.steps=0: input should be greater than or equal to 1"),
        ("+method=tent protocol.threshold=1", "protocol.threshold=1: input should be less than 1"),
        ("+method=tent protocol.reset=tagret", "unknown protocol.reset=tagret: did you mean 'target'?"),
        ("+method=tent device=gpu", "unknown device=gpu: choose auto, cpu, cuda or cuda:N, the GPU number N from 0"),
        ("+method=tent lockstep=0", "lockstep=0: give the number of streams, 1 to 65536, or auto"),
        ("+method=tent lockstep=all", "lockstep=all: give the number of streams, 1 to 65536, or auto"),
        ("+method=tent method.learning_rate=-1", "method.learning_rate=-1: input should be greater than or equal to 0"),
        ("+method=grata method.pseudo=entrpy", "method: unknown objective 'entrpy': did you mean 'entropy'?"),
        (
            "+method=grata method.strong_augmentation.noise.p=3",
            "method.strong_augmentation.noise.p=3: input should be less than or equal to 1",
        ),
        (
            "+method=tent 'data.classes={vessel: []}'",
            "data.classes.vessel lists no mask value; example: {foreground: [1]}",
        ),
        ("+method=tent data.classes=3", "data.classes=3: give keys with their values, {KEY: VALUE}"),
        (
            "+method=tent logger=wandb logger.wandb.mode=ofline",
            "logger.wandb.mode='ofline': input should be 'online' or 'offline'",
        ),
        (
            "+method=tent checkpoint=/none",
            "checkpoint=/none is no file: check the path; without checkpoint= one is trained",
        ),
        (
            "+method=tent method.name=grata",
            "'method.name' alone cannot be set: choose the whole group with +method=NAME",
        ),
        ("+method=tent data.name=folder", "'data.name' alone cannot be set: choose the whole group with data=NAME"),
        ("+method=tent ~data.limit", "'~data.limit' cannot remove a key: set it to null instead, data.limit=null"),
        ("+method=tent ~model", "'~model' cannot remove a group: choose from it instead, model=NAME"),
        (
            "+method=tent ~hydra/launcher",
            "'~hydra/launcher' cannot remove a group: choose from it instead, hydra/launcher=NAME",
        ),
        (
            "+method=tent +method=grata",
            "+method= is given 2 times: give it once, or several values separated by commas with -m",
        ),
        (
            "-m +method=tent training.learning_rate=interval(0,1)",
            "cannot sweep over 'training.learning_rate=interval(0,1)': list the values, separated by commas",
        ),
        ("+method=tent results_root=null", "results_root=null: give a path"),
    ],
)
def test_a_fault_is_one_sentence_that_names_the_key_and_the_remedy(typed, sentence):
    assert faults(typed) == (sentence,)


@pytest.mark.parametrize("typed", ["", "source=A", "-m source=A,B", "target=A data.limit=3", "method.learning_rate=1"])
def test_without_a_method_the_sentence_lists_all_of_them(typed):
    (sentence,) = faults(typed)
    assert sentence.startswith("no method is chosen: add +method=NAME, choose one of: ")
    assert all(name in sentence for name in ("grata", "no_adapt", "tent", "bn_only"))


@pytest.mark.parametrize("method", ["null", "", "'[tent,grata]'"])
def test_a_method_that_is_none_is_refused_with_the_list(method):
    (sentence,) = faults(f"+method={method}")
    assert sentence.startswith("unknown method=")
    assert "choose one of: " in sentence


@pytest.mark.parametrize(
    "word", ["source", "=3", "", "data.root=/my'folder", "data@other=synthetic", "target=[A", "source=A=B(", "$"]
)
def test_an_argument_that_cannot_be_read_is_quoted_with_how_to_write_it(word):
    with pytest.raises(UserError) as refused:
        check(["+method=tent", word], multirun=False)
    assert refused.value.faults[0].startswith(f"cannot read '{word}': write KEY=VALUE")


@pytest.mark.parametrize(
    "typed", ["+method=tent,grata", "+method=tent source=A,B", "+method=tent data=folder data.root=/my,folder"]
)
def test_several_values_without_a_sweep_are_refused_with_both_remedies(typed):
    sentence, *_ = faults(typed)  # the parts of a path that is none may be wrong by themselves
    assert "has several values: add -m to run each of them, or quote" in sentence


def test_a_path_with_special_characters_can_be_quoted(tmp_path):
    for name in ("D", "E"):
        (tmp_path / "a (b), c=d" / name / "image").mkdir(parents=True)
    root = tmp_path / "a (b), c=d"
    (config,) = check(["+method=tent", "data=folder", f'data.root="{root}"'], multirun=False)
    assert config.data.root == root


def test_all_faults_come_at_once_also_those_of_added_keys():
    found = faults(
        "+method=grta source=Q target=A,R taget=A +foo=1 ++data.fo=2 data.image_size=100 training.epochs=0 "
        "+training.augmentation.flp=1 model.encoder=resnet3 device=gpu protocol.reset=tagret checkpoint=/none"
    )
    starts = (
        "unknown method=grta",
        "unknown target=R",
        "unknown key 'taget'",
        "unknown key 'foo'",
        "unknown key 'data.fo'",
        "data.image_size=100",
        "training.epochs=0",
        "unknown key 'training.augmentation.flp'",
        "unknown encoder model.encoder=resnet3",
        "unknown device=gpu",
        "unknown protocol.reset=tagret",
        "checkpoint=/none",
    )
    assert {start for start in starts if any(fault.startswith(start) for fault in found)} == set(starts)
    assert len(found) == len(starts), found


def test_a_bad_value_of_one_job_is_found_among_the_good_ones_and_told_once():
    assert faults("-m +method=tent,grta source=A,B,Z protocol.steps=1,0") == (
        "unknown method=grta: did you mean 'grata'?",
        "protocol.steps=0: input should be greater than or equal to 1",
        "unknown source=Z: choose one of: A, B, C, D, E",
    )


def test_a_target_that_is_a_source_in_one_job_only_is_found():
    assert "target=B is also the source" in faults("-m +method=tent source=A,B target=B,C")[0]


def test_one_experiment_at_a_time():
    assert "'experiment=first_look,second': one experiment at a time" in faults("experiment=first_look,second")


def test_an_option_that_only_another_method_has_is_refused():
    assert faults("+method=tent method.perturbation=1")[0].startswith("unknown key 'method.perturbation'")


def test_a_launcher_that_is_not_installed_is_named_with_its_extra():
    pytest.importorskip("hydra")
    with pytest.raises(UserError) as refused:
        check(["+method=tent", "hydra/launcher=ray"])
    assert refused.value.faults == ("unknown hydra/launcher=ray: install it with pip install 'tta-bench[ray]'",)


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (["data=foldr"], "unknown data=foldr: did you mean 'folder'?"),
        (["data.limt=1"], "unknown key 'data.limt': did you mean 'data.limit'?"),
        (
            ["data=folder", "data.root=x", "data.intensity={precentile: [1, 99]}"],
            "unknown key 'data.intensity.precentile': did you mean 'data.intensity.percentile'?",
        ),
        (
            ["data.intensity.precentile=[1,99]"],
            "unknown key 'data.intensity.precentile': data.intensity is null and has no keys yet: give it whole, "
            "'data.intensity={percentile: VALUE}'",
        ),
        (["data.intensity.foo=1"], "unknown key 'data.intensity.foo': data.intensity is null"),
        (["data.class_masks.disc=_od"], "unknown key 'data.class_masks.disc': data.class_masks is null"),
        (["data.rooot.x=1"], "unknown key 'data.rooot.x': did you mean 'data.root'?"),
        (["data=folder"], "data=folder needs the folder of the images"),
        (["data=synthetic,folder"], "'data=synthetic,folder' has several values where one is expected"),
        (["data.image_size=32"], "data.image_size=32: input should be greater than or equal to 64"),
        (["nonsense"], "cannot read 'nonsense'"),
        (["sed=3"], "unknown key 'sed': did you mean 'seed'?"),
    ],
)
def test_faults_of_the_data_section_are_sentences(words, start):
    with pytest.raises(UserError) as refused:
        compose_data(words)
    assert refused.value.faults[0].startswith(start)


@pytest.mark.parametrize(("read", "taken"), [(compose_data, ("data", "results_root")), (compose_source, OF_SOURCE)])
def test_no_key_of_a_run_is_ignored_without_a_word_where_there_is_no_run(read, taken):
    """All that a run takes, keys and groups, is taken here too or refused by its name."""
    with composer() as hydra:
        known = [group for group in hydra.loader.list_groups("") if hydra.options(group)]
        groups = [group for group in known if f"{group}=" not in taken and group != "row"]  # of what ran before, if any
        keys = [*groups, *flat(OmegaConf.to_container(hydra.compose([])))]
    assert {"training", "logger", "seed", "data.root", "protocol.reset"} < {*keys}
    words = [f"{key}=x" for key in dict.fromkeys(keys) if key not in taken and not key.startswith("data.classes.")]
    with pytest.raises(UserError) as refused:
        read([*words, "nonsense=x"])
    said = {fault.partition("'")[2].partition("'")[0] for fault in refused.value.faults if "' is for runs: " in fault}
    assert said == {key for key in (word.partition("=")[0] for word in words) if not below(key, taken)}


@pytest.mark.parametrize(
    "values",
    [
        *("range(0,1e12)", "shuffle(range(0,1000000000000))", "sort(range(0,1e12))", "range(0,1,1e-30)"),
        *("range(0,10,0)", "range(0,nan)", "range(0,100000)", "range(5,0)", "interval(0,1)", "glob(*)", "choice()"),
        *("9" * 5000, "[" * 3000),
    ],
    ids=lambda values: values[:30],
)
def test_a_sweep_that_has_no_end_or_no_value_is_refused_at_once(values):
    with pytest.raises(UserError, match="seed="):
        check(["+method=no_adapt", f"seed={values}"])


def test_a_sweep_of_too_many_combinations_is_refused_with_their_number():
    with pytest.raises(UserError, match="100,000 runs"):
        check(["+method=no_adapt", "seed=range(0,1000)", "protocol.order=range(0,100)"])
