"""No key is silently ignored: another value makes another cell or search, is refused, or is of speed or display."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tta_bench.cell import Cell
from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.launch.composition import composer
from tta_bench.launch.experiments import plan
from tta_bench.launch.grammar import quote_lists
from tta_bench.runtime.values import flat
from tta_bench.search.study import Study

RUN = ["+method=tent", "source=D"]
SITUATIONS = {"run": RUN, "given": [*RUN, "checkpoint=given.ckpt"], "search": [*RUN, "tune=true"]}

OF_SPEED_OR_DISPLAY = {
    "data.max_pixels",
    "diagnostics.source_gap",
    "force",
    "launch.cells_per_device",
    "training.workers",
}
WITHOUT_RUNS = {"seed", "tune"}
"""TENT draws nothing at random, and a search is the same search with ``tune=true`` twice."""


def identity(words):
    (config,) = check(quote_lists(words, multirun=False), multirun=False)
    return Study(config).identity() if config.tune else Cell.of(config, config.seed[0]).identity()


def other(value):
    """Another value of a switch or a number; of others none."""
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, int | float):
        return value * 2 if isinstance(value, int) and value else value / 2 or 1
    return None


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_key_that_is_given_does_something_or_is_refused(situation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("given.ckpt").touch()
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'tta-bench[search]'")
    words = SITUATIONS[situation]
    with composer() as hydra:
        keys = flat(OmegaConf.to_container(hydra.compose([RUN[0]]), resolve=True))
    before, idle = identity(words), set()
    for key, value in keys.items():
        if other(value) is None or key.startswith("hydra"):
            continue
        try:
            after = identity([*words, f"{key}={other(value)}"])
        except UserError:
            continue
        idle |= {key} if after == before else set()
    assert idle <= OF_SPEED_OR_DISPLAY | WITHOUT_RUNS
    assert idle >= OF_SPEED_OR_DISPLAY - {"diagnostics.source_gap", "training.workers"}  # refused where unused


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["search.trials=3"], "search.trials=3 is for a search: add tune=true, or take the options that one has found"),
        (["tune=true", "seed=3"], "seed=3 is of runs, and a search draws by search.seed: set that"),
        (["tune=true", "metrics=[dice,hd95]"], "metrics=[dice,hd95] is of runs, and tune=true looks at the Dice"),
        (["tune=true", "protocol.evaluation=held_out"], "protocol.evaluation=held_out is of runs, and tune=true"),
        (["tune=true", "method.learning_rate=1e-3"], "method.learning_rate=1e-3 is what tune=true searches, from its"),
        (["checkpoint=given.ckpt", "training=paper"], "training=paper is for training a source model, and checkpoint="),
        (["checkpoint=given.ckpt", "training.momentum=0.5"], "training.momentum=0.5 is for training a source model"),
        (["training.nesterov=true"], "training.nesterov=true is of training.optimizer=sgd: add that"),
        (["training.epsilon=0.2"], "training.epsilon=0.2 is of training.optimizer=avagrad: add that"),
        (["training.branch_weights.rotation=1"], "training.branch_weights.rotation=1 weighs the loss of a branch that"),
        (["method.momentum=0.9"], "method.momentum=0.9 has no effect beside the other options of the method"),
        (
            ["+adapt=fta", "protocol.evaluation=held_out", "adapt.momentum=0.5"],
            "adapt.momentum=0.5 has no effect beside the other options of the system",
        ),
        (["model=resunet34", "model.norm_blocks=2"], "model.norm_blocks=2 is of model.norm=catenorm: add that"),
    ],
)
def test_a_key_that_no_run_looks_at_is_refused_once_and_says_what_to_do(words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("given.ckpt").touch()
    with pytest.raises(UserError) as refused:
        identity([*RUN, *words])
    (fault,) = refused.value.faults
    assert fault.startswith(sentence)


def test_a_key_is_taken_where_some_of_the_runs_look_at_it_and_refused_in_a_row_that_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("given.ckpt").touch()
    both = [*RUN, "checkpoint=null,given.ckpt", "training.seed=1"]
    assert len(check(quote_lists(both, multirun=True))) == 2
    rows = "rows:\n  given: {method: tent, checkpoint: given.ckpt%s}\n  trained: {method: tent, training.seed: 1}\n"
    for more, count in (("", 4), (", training.seed: 1", 0)):
        Path("mine.yaml").write_text(rows % more)
        if count:
            assert len(plan("mine.yaml", ["source=D"]).cells) == count
            continue
        with pytest.raises(UserError, match=r"mine.yaml: rows.given: 'training.seed' is for training a source model"):
            plan("mine.yaml", ["source=D"])


def test_a_held_out_table_uses_the_search_that_its_whole_sibling_uses():
    search = Study(check([*RUN, "tune=true"], multirun=False)[0])
    held_out = check([*RUN, "protocol.evaluation=held_out"], multirun=False)[0]
    assert Study(held_out).folder == search.folder
