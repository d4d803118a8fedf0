"""``python -m tta_bench``: what a user types, sees and finds in the folder afterwards."""

import logging
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tta_bench.__main__ as program
import tta_bench.cell as cell_module
from awkward import sites
from awkward import typed as quoted
from tta_bench.errors import UserError
from tta_bench.methods.options import default_options
from tta_bench.sinks.base import SINKS, Run

TINY = (
    "data.image_size=64",
    "data.limit=4",
    "training.epochs=1",
    "training.min_steps=0",
    "model.encoder=tu-test_resnet",
    "model.decoder_channels=[16,16,8,8,8]",
    "source=D",
    "device=cpu",
)


@pytest.fixture
def typed(monkeypatch, tmp_path, capsys):
    """The program in this process: a function from words to exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(logging.getLogger("tta_bench"), "level", logging.NOTSET)  # restored afterwards

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["tta_bench", *words])
        code = 0
        try:
            program.main()
        except SystemExit as left:
            code = left.code
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return run


@pytest.fixture
def started(monkeypatch):
    """The configurations of all runs that are started, none of which does anything."""
    configs = []
    monkeypatch.setattr(cell_module, "run", lambda config, beside=(): configs.append(config) or ())
    return configs


def test_a_real_sweep_skips_what_is_finished(typed, monkeypatch, caplog):
    computed = []
    compute = cell_module.compute
    monkeypatch.setattr(
        cell_module, "compute", lambda of, *rest: computed.append(of[0].config.method["name"]) or compute(of, *rest)
    )
    code, out, _ = typed("-m", "+method=no_adapt,bn_only", "target=A", *TINY)
    assert (code, computed) == (0, ["no_adapt", "bn_only"])
    assert out.count("results: outputs/cells/") == 2
    assert re.search(
        r"sweep: Dice in percent.*^no_adapt +\S+$.*^bn_only +\S+ +[+-]", re.sub(" +$", "", out, flags=re.M), re.M | re.S
    )
    assert out.count("sweep: ") == 1
    caplog.clear()
    code, again, _ = typed("-m", "+method=no_adapt,bn_only,tent", "target=A", *TINY)
    assert (code, computed) == (0, ["no_adapt", "bn_only", "tent"])
    assert again.count("results: outputs/cells/") == 3
    assert caplog.text.count("finished before, not computed again") == 4, "the reference twice more"
    assert {path.name for path in Path().iterdir()} == {"outputs"}


def test_a_failing_sink_stops_no_result_and_is_told_once_at_the_end(typed, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    words = ("-m", "+method=bn_only,tent", "target=A", "logger=wandb", *TINY)
    code, out, error = typed(*words, "force=true")
    assert code == 0
    assert out.count("results: outputs/cells/") == 2
    (sentence,) = error.splitlines()
    assert re.match(
        r"warning: W&B did not take the results of 4 finished runs \(.*wandb.*\): they are complete", sentence
    )
    command = shlex.split(sentence.partition("nothing again: ")[2])
    assert command == ["python", "-m", "tta_bench", *words]
    sent = []

    class StandIn(Run):
        def __init__(self, options, about, *more):
            sent.append(about.id)

        log = finish = stop = lambda self, *given: None

    monkeypatch.setitem(SINKS._items, "wandb", replace(SINKS.get("wandb"), open=StandIn))
    code, out, error = typed(*command[3:])
    assert (code, error, len(sent)) == (0, "", 4)
    assert typed(*command[3:])[0] == 0
    assert len(sent) == 4, "three cells and the training, each once"


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "+method=tent,grata", "source=A,B"),
        ("+method=tent,grata", "-m", "source=A,B"),
        ("+method=tent,grata", "source=A,B", "--multirun"),
        ("method=tent,grata", "source=A,B", "-m"),
    ],
)
def test_flags_may_stand_anywhere(typed, started, words):
    assert typed(*words)[0] == 0
    assert [(c.method["name"], c.source) for c in started] == [
        ("tent", "A"),
        ("tent", "B"),
        ("grata", "A"),
        ("grata", "B"),
    ]


def test_hydra_runs_what_was_checked(typed, started):
    typed("method=grata", "target=A,C", "seed=0,1", "data.classes={vessel: [1, 2]}", "++method.learning_rate=1e-3")
    (config,) = started
    assert (config.target, config.seed) == (("A", "C"), (0, 1))
    assert config.data.classes == {"vessel": (1, 2)}
    assert config.method["learning_rate"] == 1e-3


def test_seeds_are_jobs_of_a_sweep(typed, started):
    typed("-m", "+method=tent", "seed=0,1", "target=A,C", "data.classes={a: [1]},{b: [2]}")
    assert [(config.seed, *config.data.classes) for config in started] == [
        ((0,), "a"),
        ((0,), "b"),
        ((1,), "a"),
        ((1,), "b"),
    ]
    assert all(config.target == ("A", "C") for config in started)


def test_an_experiment_is_run_as_its_file_says(typed, started):
    assert typed("experiment=first_look", "source=A,B")[0] == 0
    assert len({(config.method["name"], config.source) for config in started}) == len(started) == 8
    del started[:]
    assert typed("+experiment=first_look", "target=A,C")[0] == 2, "A and C are sources too"
    assert not started
    assert typed("+experiment=first_look", "target=A", "source=B,D", "seed=3,4")[0] == 0
    assert {(config.source, config.target, config.seed) for config in started} == {
        ("B", ("A",), (3, 4)),
        ("D", ("A",), (3, 4)),
    }


def test_an_option_of_some_rows_methods_is_given_to_these_alone(typed, started):
    assert typed("experiment=table2", "source=A", "method.entropy_form=binary")[0] == 0
    chosen = [(config.method["name"], config.method.get("entropy_form")) for config in started]
    assert chosen == [("no_adapt", None), *[("grata", "binary")] * 4, ("bn_only", None)]


def test_nothing_starts_if_one_job_of_many_is_bad(typed, started):
    code, out, error = typed("-m", "+method=tent,grta", "source=A,Z")
    assert (code, out, started) == (2, "", [])
    assert error == (
        "error: unknown method=grta: did you mean 'grata'?\nerror: unknown source=Z: choose one of: A, B, C, D, E\n"
    )
    assert list(Path().iterdir()) == []


def test_a_logger_whose_library_is_missing_is_refused_before_any_work(typed, started, monkeypatch):
    SINKS.names()
    for name in ("csv", "mlflow"):
        sink = replace(SINKS.get(name), extra=f"no_library_of_{name}")
        monkeypatch.setitem(SINKS._items, name, sink)
    code, _, error = typed("+method=tent", "source=A", "logger=mlflow,csv")
    assert (code, started) == (2, [])
    assert error.splitlines() == [
        f"error: logger={name} needs a library that is not installed: pip install 'tta-bench[no_library_of_{name}]'"
        for name in ("mlflow", "csv")
    ]


def test_several_values_without_a_sweep_start_nothing(typed, started):
    code, _, error = typed("+method=tent,grata")
    assert (code, started) == (2, [])
    assert "add -m to run each of them" in error


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([None, None, None], 0),
        ([None, UserError("the disk is full"), None], 2),
        ([ZeroDivisionError("a bug"), None, None], 1),
        ([UserError("the disk is full"), ZeroDivisionError("a bug"), None], 1),
    ],
)
def test_a_failing_cell_does_not_stop_the_others_and_the_exit_code_tells(typed, monkeypatch, outcomes, code):
    ran = []

    def run(config, beside=()):
        outcome = outcomes[len(ran)]
        ran.append(config.source)
        if outcome is not None:
            raise outcome
        return ()

    monkeypatch.setattr(cell_module, "run", run)
    found, _, error = typed("-m", "+method=tent", "source=A,B,C")
    assert (found, ran) == (code, ["A", "B", "C"])
    failed = sum(outcome is not None for outcome in outcomes)
    assert (f"{failed} of 3 runs failed, see above" in error) == (failed > 0)
    assert ("error: the disk is full\n" in error) == any(isinstance(outcome, UserError) for outcome in outcomes)


def test_a_fault_of_the_program_shows_its_traceback(typed, monkeypatch, caplog):
    monkeypatch.setattr(cell_module, "run", lambda *_: 1 / 0)
    code, _, error = typed("+method=tent")
    assert code == 1
    assert "this run failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "runs failed" not in error, "there is only one"


def test_ctrl_c_is_a_sentence(typed, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cell_module, "run", interrupted)
    assert typed("+method=tent") == (130, "", "interrupted; what is finished is kept, the same command continues\n")


@pytest.mark.parametrize(
    ("left", "code"),
    [
        (("done", "done"), 0),
        (("done", None), 1),
        (("failed", "done"), 1),
        (("failed", "SIGTERM"), 143),
        (("SIGTERM", "SIGINT"), 130),
    ],
)
def test_the_code_of_jobs_in_other_processes_is_told_by_what_they_left(typed, monkeypatch, left, code):
    def elsewhere(jobs):
        folders = [cell_module.Cell.all_of(config)[0].folder() for config in jobs]
        for folder, state in zip(folders, left, strict=True):
            if state is not None:
                folder.start({})
            if state == "failed":
                folder.fail(MemoryError())
            elif state == "done":
                folder.finish([], {}, {})
            elif state is not None:
                folder.interrupt(state)
        return original(jobs)

    original = program._outcomes_elsewhere
    monkeypatch.setattr(program, "_outcomes_elsewhere", elsewhere)
    monkeypatch.setattr(program, "attempt", lambda work: None)
    monkeypatch.setattr(cell_module.Cell, "finished", lambda cell: cell.folder().status() == "done" or None)
    found, _, error = typed("-m", "+method=tent", "source=A,B")
    assert found == code
    failed = sum(state != "done" for state in left)
    assert (f"{failed} of 2 runs failed, see above" in error) == (failed > 0)


def test_help_says_how_to_start_and_what_there_is_to_choose(typed):
    code, out, _ = typed("--help")
    assert code == 0
    assert "python -m tta_bench +method=grata source=D" in out
    assert re.search(r"^method: .*grata.*tent", out, re.MULTILINE)
    assert re.search(r"^data: folder, fundus, synthetic", out, re.MULTILINE)
    assert "image_size: 128" in out
    assert "tta-bench list" in out
    code, out, _ = typed("+method=grata", "--help")
    assert "learning_rate_function: square" in out


def test_the_configuration_can_be_shown_without_running(typed, started):
    code, out, _ = typed("+method=tent", "source=A", "--cfg", "job")
    assert (code, started) == (0, [])
    assert "source: A" in out
    assert "name: tent" in out


def test_an_unknown_flag_shows_the_usage(typed, started):
    code, _, error = typed("+method=tent", "--forse")
    assert (code, started) == (2, [])
    assert "usage: python -m tta_bench" in error


def test_configuration_files_of_ones_own_are_used(typed, started, tmp_path):
    (tmp_path / "mine/method").mkdir(parents=True)
    (tmp_path / "mine/method/fast.yaml").write_text("defaults: [tent]\nlearning_rate: 0.5\n")
    assert typed("--config-dir", "mine", "+method=fast")[0] == 0
    assert started[0].method == {**vars(default_options("tent")), "name": "tent", "learning_rate": 0.5}
    assert typed("--config-dir", "none", "+method=fast")[0] == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", "results_root=/proc/x"], "/proc/x cannot be used"),
        (["-m", "results_root=a_file"], "a_file cannot be used (File exists)"),
        (["results_root=/proc/x"], "/proc/x cannot be used"),
        (["results_root="], "results_root='': name a folder or file, or leave the key out"),
        (["+row=first_look_01"], "rows are those of an experiment"),
        (["hydra.swep.dir=x"], "unknown key 'hydra.swep.dir': did you mean 'hydra.sweep.dir'?"),
        (["hydra.job.chdir=maybe"], "Value 'maybe' is not a valid bool"),
        (["hydra.mode=foo"], "expected one of [RUN, MULTIRUN]"),
        (["hydra.run.dir=/proc/x"], "/proc/x cannot be used"),
        (["-m", "hydra.sweep.dir=${nope}"], "Interpolation key 'nope' not found"),
        (["--config-name", "foo"], "--config-name is not supported"),
        (["--config-path", "/tmp"], "--config-path is not supported"),
        (["--config-dir", "mine", "method=broken"], "mine/method/broken.yaml, line 2, column 2 is no YAML"),
        (["--config-dir", "mine", "method=tabbed"], "mine/method/tabbed.yaml, line 2, column 1 is no YAML"),
        (["--config-dir", "mine", "method=tabbed"], "a tab indents this line or the one before, write spaces"),
        (["--config-dir", "a_file"], "--config-dir a_file is not a folder"),
        (["--experimental-rerun", "x"], "--experimental-rerun is not supported"),
        (["--resolve"], "--resolve belongs to --cfg job"),
        (["--package", "data"], "--package belongs to --cfg job"),
        (["--cfg", "job", "-m"], "--multirun and --cfg exclude each other"),
        (["--cfg", "job", "--package", "nope"], "package 'nope' not found"),
        (["--cfg", "job", "model=unt"], "Could not find 'model/unt'"),
        (["--help", "model=unt"], "Could not find 'model/unt'"),
        (["--shell-completion"], "Expecting one subcommand"),
        (["-sc", "query=bash"], "query=bash is what a shell asks"),
        (["checkpoint=[a]"], "checkpoint=[a] is no file"),
        (["checkpoint=1e3"], "checkpoint=1e3 is no file"),
        (["target=[A"], "cannot read 'target=[A'"),
        (["source=\udcff"], r"'source=\udcff' is not UTF-8 text"),
    ],
)
def test_what_hydra_or_a_file_system_refuses_is_a_sentence(typed, started, words, told):
    Path("a_file").touch()
    Path("mine/method").mkdir(parents=True)
    Path("mine/method/broken.yaml").write_text("a: [1\nb: }")
    Path("mine/method/tabbed.yaml").write_text("a:\n\tb: 1\n")
    method = [] if any(word.startswith("method=") for word in words) else ["+method=no_adapt"]
    code, _, error = typed(*method, *words)
    assert (code, started) == (2, [])
    assert told in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "words", [["--info"], ["--cfg", "job", "--resolve"], ["--run"], ["--hydra-help"], ["-c", "all"]]
)
def test_flags_of_hydra_that_only_show_something_work(typed, started, words):
    assert typed("+method=no_adapt", *words)[0] == 0


def test_names_reach_the_runs_of_a_sweep_as_they_are(typed, started, tmp_path):
    names = ["1_1", "11", "null", "a,b", "${x}", "A#1", "a{b", "\\'", "???", "a\nb"]
    sites(tmp_path / "ü = [x]", names)
    data = ("data=folder", "data.root=ü = [x]")
    assert typed("-m", "+method=no_adapt", *data, f"source={','.join(map(quoted, names))}")[0] == 0
    assert [config.source for config in started] == names
    assert all(config.data.root == Path("ü = [x]") for config in started)
    del started[:]
    assert typed("experiment=first_look", *data, "results_root=a, [b]")[0] == 0
    assert {config.source for config in started} == set(names)
    assert Path("a, [b]").is_dir()


def test_a_job_can_be_sent_to_another_process():
    cloudpickle = pytest.importorskip("cloudpickle")
    assert cloudpickle.loads(cloudpickle.dumps(program.job))
