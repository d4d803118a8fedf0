"""Command lines: what the check accepts, and what ``main`` does with it where no run is started."""

import sys

import pytest
from damage import NUMBERS, TEXTS, cases, outcome
from hypothesis import given
from hypothesis import strategies as st

import forked
import tta_bench.__main__ as program
from tta_bench import cell
from tta_bench.launch.check import check
from tta_bench.launch.grammar import quote_lists
from tta_bench.launch.keys import compose_data

KEYS = st.sampled_from(
    (
        *("+method", "method", "source", "target", "seed", "data", "data.root", "data.limit", "data.image_size"),
        *("data.classes", "data.domains", "data.classes.x", "model", "model.encoder", "model.branches", "training"),
        *("training.epochs", "training.augmentation.scale", "method.learning_rate", "method.optimizer", "device"),
        *("protocol.order", "checkpoint", "results_root", "lockstep", "logger", "experiment", "row"),
        *("hydra.mode", "hydra/launcher"),
    )
)
PREFIXES = st.sampled_from(["", "", "", "+", "++", "~"])
PLAIN = st.sampled_from(
    (
        *("tent", "grata", "no_adapt", "A", "D", "A,B", "[A,B]", "synthetic", "folder", "unet", "quick", "auto", "1"),
        *("0,1", "first_look", "[]", "{}", "{a: [1]}", "{a: [1}", "range(0,3)", "range(0,1e12)", "range(3,0,0)"),
        *("glob(*)", "shuffle(1,2)", "interval(0,1)", "choice()", "choice(1,2)", "sort(3,1)", "null", "???"),
        *("${source}", "a b"),
    )
)
WORDS = st.one_of(
    st.builds(lambda p, k, v: f"{p}{k}={v}", PREFIXES, KEYS, st.one_of(PLAIN, TEXTS, NUMBERS.map(str))),
    st.builds(lambda p, k: f"{p}{k}", PREFIXES, KEYS),
    TEXTS,
)
LINES = st.lists(WORDS, max_size=4).flatmap(
    lambda words: st.sampled_from([words, ["+method=tent", *words], ["+method=grata", "source=A", *words]])
)


@cases(seeded=12, fuzz=900)
@given(words=LINES, multirun=st.booleans())
def test_a_command_line_is_checked_or_refused(words, multirun):
    with outcome():
        check(quote_lists(words, multirun), multirun=multirun)


@cases(seeded=6, fuzz=300)
@given(words=st.lists(WORDS, max_size=3))
def test_a_command_line_of_data_is_checked_or_refused(words):
    with outcome():
        compose_data(words)


@cases(seeded=8, fuzz=300)
@given(words=LINES, flags=st.lists(st.sampled_from(["-m", "--help", "--cfg=job", "--config-name=x", "-q"]), max_size=2))
def test_main_ends_with_0_or_2_where_no_run_is_computed(words, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cell, "run", lambda config, beside=(): ())
    monkeypatch.setattr(sys, "argv", ["tta_bench", *flags, *words])
    code = 0
    with outcome():
        try:
            program.main()
        except SystemExit as left:
            code = left.code
    errors = capsys.readouterr().err
    assert code in (0, None, 2), errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "words", [["seed=range(0,1e12)", "-m"], ["method.learning_rate=nan", "training.augmentation.scale=[nan,nan]"]]
)
def test_a_process_ends_with_2_and_a_sentence(words, tmp_path):
    ended = forked.run("-m", "tta_bench", "+method=tent", *words, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("error: ")
    assert "Traceback" not in ended.stderr
