"""Searches from the command line: nothing but the source is read, the outcome is kept, used and shown."""

import io
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console

import tta_bench.search.tune as tune_module
from made_tables import texts_of
from tiny_cells import TINY, random_pairs
from tta_bench.__main__ import main
from tta_bench.adapter import Adapter
from tta_bench.cell import Cell, run
from tta_bench.cli import main as cli
from tta_bench.data.domain import Domain
from tta_bench.data.readers.folder import FolderReader
from tta_bench.errors import UserError
from tta_bench.launch.check import check, find_jobs
from tta_bench.launch.experiments import plan, searches
from tta_bench.launch.grammar import quote_lists
from tta_bench.launch.tuned import check_searched_images
from tta_bench.methods.base import METHODS
from tta_bench.report.tables import build_table
from tta_bench.report.write import summary_table
from tta_bench.runtime.paths import shipped
from tta_bench.search.pseudo_targets import ShiftedDomain
from tta_bench.search.study import Study
from tta_bench.search.tune import tune

pytest.importorskip("optuna", reason="optuna is not installed: pip install 'tta-bench[search]'")

SMALL = [word for word in TINY if not word.startswith("target=")]
SEARCH = ["search.trials=3", "search.shifts={gamma:[0.6],noise:[0.08]}"]


def configure(*words, multirun=False):
    quoted = quote_lists([*SMALL, *words], multirun)
    (config,) = check(quoted, multirun=multirun)
    return config


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Images of a source and two other domains, a finished search, and what was read meanwhile."""
    root = tmp_path_factory.mktemp("searched")
    images = random_pairs(root / "images", {"D": 4, "A": 3, "C": 3})
    words = ["data=folder", f"data.root={images}", f"results_root={root / 'results'}", *SEARCH]
    read = {"listed": set(), "seen": set()}
    with pytest.MonkeyPatch.context() as patch:
        records, levels, label = FolderReader.records, Domain.levels, Domain.label

        def spy(kind, method):
            def spied(self, *args):
                read[kind].add(args[0] if kind == "listed" else self.name)
                return method(self, *args)

            return spied

        patch.setattr(FolderReader, "records", spy("listed", records))
        patch.setattr(Domain, "levels", spy("seen", levels))
        patch.setattr(ShiftedDomain, "levels", spy("seen", ShiftedDomain.levels))
        patch.setattr(Domain, "label", spy("seen", label))
        outcome = tune(configure("+method=tent", "tune=true", *words))
    return words, outcome, read


def test_nothing_but_the_source_is_read(searched):
    _, _, read = searched
    assert read["listed"] == {"D"}
    assert read["seen"] == {"D", "D gamma 0.6", "D noise 0.08"}


def test_a_search_is_the_same_without_any_other_domain(searched, tmp_path):
    _, outcome, _ = searched
    images = random_pairs(tmp_path / "images", {"D": 4})
    words = ["data=folder", f"data.root={images}", f"results_root={tmp_path}", *SEARCH]
    assert tune(configure("+method=tent", "tune=true", *words))["trials"] == outcome["trials"]


def test_the_outcome_records_budget_space_seed_and_trials(searched):
    words, outcome, _ = searched
    study = Study(configure("+method=tent", "tune=true", *words))
    assert yaml.safe_load(study.path.read_text()) == outcome == study.outcome()
    assert (outcome["budget"], len(outcome["trials"]), outcome["seed"]) == (3, 3, 0)
    assert outcome["space"]["learning_rate"] == {"low": 1e-5, "high": 0.1, "log": True}
    assert outcome["shifts"] == {"gamma": [0.6], "noise": [0.08]}
    assert outcome["images"] == {"count": 1, "unseen_by_the_source_model": True}
    first = outcome["trials"][0]
    assert {key: first[key] for key in outcome["defaults"]} == outcome["defaults"]
    assert first["dice"] == pytest.approx(sum(first["per_shift"].values()) / 2)
    assert outcome["dice"]["tuned"] == max(trial["dice"] for trial in outcome["trials"]) >= outcome["dice"]["default"]


def test_a_finished_search_is_read_unless_what_it_is_of_has_changed(searched, monkeypatch, caplog):
    words, outcome, _ = searched
    monkeypatch.setattr(tune_module, "dice_on", lambda *args: pytest.fail("a trial was taken"))
    assert tune(configure("+method=tent", "tune=true", *words)) == outcome
    path = Study(configure("+method=tent", "tune=true", *words)).folder
    others = (
        "search.trials=4",
        "search.seed=1",
        "search.shifts={gamma:[0.6]}",
        "protocol.steps=2",
        "training.epochs=2",
    )
    changed = {other.partition("=")[0]: other for other in others}
    for key, other in changed.items():
        kept = [word for word in words if word.partition("=")[0] != key]
        assert Study(configure("+method=tent", "tune=true", *kept, other)).folder != path
    assert Study(configure("+method=tent", "tune=true", *words, "force=true")).folder == path


def test_tuned_options_enter_the_cell_as_values(searched):
    words, outcome, _ = searched
    runs = [word for word in words if not word.startswith("search.")]
    default, tuned = configure("+method=tent", *runs), configure("+method=tent", *words, "method.preset=tuned")
    assert tuned.method["learning_rate"] == outcome["options"]["learning_rate"]
    assert Cell(tuned, 0).identity()["method"].items() >= outcome["options"].items()
    assert Cell(tuned, 0).identity() != Cell(default, 0).identity()
    uniform = configure("+method=tent", *runs, "method.preset=uniform")
    assert Cell(uniform, 0).identity() == Cell(default, 0).identity()


def test_tuned_options_of_no_search_are_refused(searched):
    words, _, _ = searched
    with pytest.raises(UserError, match=r"no finished search for method=grata on source=D.*tune=true"):
        configure("+method=grata", *words, "method.preset=tuned")
    with pytest.raises(UserError, match=r"outcome\.yaml"):
        Adapter(None, "tent", preset="tuned")


@pytest.mark.parametrize(
    "more", [("adapt=adabn",), ("route=A", "target=C"), ("stages=D,A", "protocol.evaluation=held_out")]
)
def test_tuned_options_are_for_the_model_and_the_images_that_they_were_not_chosen_by(searched, more):
    words, _, _ = searched
    with pytest.raises(UserError, match=r"tuned has options that were searched with the model of source=D alone"):
        configure("+method=tent", *words, "method.preset=tuned", *more)


@pytest.mark.parametrize("what", ["code", "source_model"])
def test_tuned_options_of_a_search_that_has_become_stale_are_refused(searched, what):
    words, outcome, _ = searched
    study, tuned = (
        Study(configure("+method=tent", "tune=true", *words)),
        ("+method=tent", *words, "method.preset=tuned"),
    )
    assert configure(*tuned, "diagnostics.empirical_gradient=true").method["preset"] == "tuned", "which only looks on"
    study.write(outcome | {"inputs": outcome["inputs"] | {what: "of before"}})
    try:
        with pytest.raises(UserError, match=rf"{what.replace('_', ' ')}.* changed since.*\+method=tent tune=true"):
            configure(*tuned)
    finally:
        study.write(outcome)
    assert configure(*tuned).method["preset"] == "tuned"


def test_a_run_with_options_of_a_search_on_other_images_is_refused_before_any_work(searched, monkeypatch, capsys):
    words, _, _ = searched
    image = Path(words[1].partition("=")[2]) / "D/image/0.png"
    before = image.read_bytes()
    Image.new("RGB", (64, 64), (9, 80, 120)).save(image)
    monkeypatch.setattr(sys, "argv", ["tta_bench", "+method=tent", *words, *SMALL, "method.preset=tuned"])
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        image.write_bytes(before)
    told = " ".join(capsys.readouterr().err.split())
    assert (end.value.code, "the images of D changed since, so there is no search any more" in told) == (2, True)
    quoted = quote_lists(["+method=tent", *words, *SMALL, "method.preset=tuned"], False)
    check_searched_images(job.search for job in find_jobs(quoted, multirun=False))


def test_every_format_says_where_options_are_from(searched, tmp_path):
    words, _, _ = searched
    path = tmp_path / "mine.yaml"
    path.write_text(
        "rows:\n  tent: {method: tent}\n  tent tuned: {method: tent, method.preset: tuned}\n"
        "  tent fast: {method: tent, method.learning_rate: 0.01}\n"
    )
    of_table = plan(str(path), [*SMALL, *words])
    for planned in of_table.cells:
        list(run(planned.cell.config))
    table = build_table(of_table)
    assert {row.label: row.options for row in table.rows} == {
        "tent": "default",
        "tent tuned": "tuned",
        "tent fast": "own",
        "no_adapt": "default",
        "bn_only": "default",
    }
    written = texts_of(table)
    assert "| tent tuned | tuned |" in written["table.md"]
    assert "tent tuned & tuned &" in written["table.tex"]
    assert "mine,tent tuned,tent,tuned,D" in written["table.csv"]
    assert "options: tuned" in written["index.html"]
    console = Console(file=io.StringIO(), width=80)
    console.print(summary_table(table))
    assert "options" in console.file.getvalue()


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("target=A", "leave target out"),
        ("logger=csv", "leave logger out"),
        ("adapt=adabn", "leave adapt out"),
        ("method.preset=official", r"leave method\.preset=official out"),
        ("search.shifts={gamma:[]}", "lists no shift"),
        ("search.shifts={gama:[2]}", r"unknown key 'search\.shifts\.gama': did you mean 'search\.shifts\.gamma'"),
        ("search.shifts={noise:[3]}", r"search\.shifts\.noise=\[3\]: 3 must lie in"),
        ("search.trials=0", "search.trials=0"),
    ],
)
def test_what_does_not_go_with_a_search_is_refused(tmp_path, word, sentence):
    with pytest.raises(UserError, match=sentence):
        configure("+method=tent", "tune=true", f"results_root={tmp_path}", word)


def test_a_missing_optuna_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("tta_bench.search.trials.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'tta-bench\[search\]'"):
        configure("+method=tent", "tune=true", f"results_root={tmp_path}")


def test_an_update_that_is_not_finite_fails_the_trial(searched, tmp_path, monkeypatch):
    words, _, _ = searched
    answers = iter([({}, "2 losses or gradients were not finite"), ({"D": 50.0}, ""), ({"D": 40.0}, "")])
    monkeypatch.setattr(tune_module, "dice_on", lambda *args: next(answers))
    outcome = tune(configure("+method=tent", "tune=true", *words, "search.seed=7"))
    assert (outcome["failed"], outcome["best_trial"], outcome["dice"]) == (1, 2, {"default": None, "tuned": 50.0})
    assert outcome["trials"][0]["failed"] == "2 losses or gradients were not finite"


def test_an_experiment_of_searches_is_run_and_shown(searched, tmp_path, capsys, caplog, monkeypatch):
    words, _, _ = searched
    path = tmp_path / "mine.yaml"
    path.write_text('rows:\n  tent: {method: tent}\nsweep:\n  tune: "true"\n')
    cli(["status", str(path), *words, *SMALL])
    before = capsys.readouterr().out
    assert "1 of 3 finished" in before
    assert "not begun" in before
    monkeypatch.setattr(sys, "argv", ["tta_bench", f"experiment={path}", *words, *SMALL])
    main()
    printed = capsys.readouterr().out
    assert "tent, source D: searched before" in caplog.text
    assert "no_adapt, source D: trial 1 of 1" in caplog.text
    assert "3 of 3 finished" in printed
    with pytest.raises(SystemExit):
        cli(["report", str(path), *words, *SMALL])
    assert "rows of method.preset=tuned" in capsys.readouterr().err


def test_the_shipped_experiment_searches_for_every_method(tmp_path):
    found = searches(plan("search", ["source=D", f"results_root={tmp_path}"]))
    assert {study.config.method["name"] for study in found} == set(METHODS.names())
    assert {study.trials for study in found if study.space} == {shipped("shared/search")["trials"]}
    assert {study.config.target for study in found} == {()}


def test_a_search_has_the_network_of_a_run(tmp_path, monkeypatch):
    images = random_pairs(tmp_path / "images", {"D": 4})
    words = ["data=folder", "data.fit=tile", f"data.root={images}", f"results_root={tmp_path}", *SEARCH]
    config, networks = configure("+method=tent", "tune=true", *words, "search.trials=1"), []

    def kept(targets, config, options, network, title):
        networks.append(network)
        return dict.fromkeys(targets, 1.0), ""

    monkeypatch.setattr("tta_bench.search.tune.dice_on", kept)
    tune(config)
    assert [network.tiled for network in networks] == [True]
    assert Study(config).folder != Study(config.model_copy(update={"precision": "bf16"})).folder
