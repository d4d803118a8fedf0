"""A source model of sixty steps: whatever adapting it gains, the first line says what it is worth."""

import json

import pytest

from tiny_cells import configure, execute, folder, summary
from tta_bench.cell import run
from tta_bench.sinks.contents import outcome_of


@pytest.fixture(scope="module")
def sixty_steps(tmp_path_factory):
    config = configure(
        tmp_path_factory.mktemp("sixty"), "+method=bn_only", "training.min_steps=60", "training.learning_rate=1e-5"
    )
    return config, execute(config)


def test_the_first_line_of_the_console_is_the_warning(sixty_steps):
    config, printed = sixty_steps
    box = printed.split("warnings", 1)[1]
    assert printed.index("warnings") < printed.index("Dice in percent")
    assert box.splitlines()[1].startswith("│ ! SOURCE MODEL TOO WEAK TO ADAPT: D has an in-domain Dice of")
    record = summary(config)["source_checkpoint"]["examination"]
    assert record["images"] == "held-out"
    assert record["dice"] < 70
    (beside,) = map(json.loads, (p.read_text() for p in config.results_root.glob("source_models/*/examination.json")))
    assert beside["examination"] == record


def test_its_dashboard_run_is_called_so(sixty_steps, monkeypatch):
    config, _ = sixty_steps
    outcome = outcome_of(folder(config), {})
    assert outcome.summary["source_model/examined/dice"] < 70
    told = []
    monkeypatch.setattr("tta_bench.sinks.cells.send", lambda loggers, about, *_: told.append(about))
    monkeypatch.setattr("tta_bench.sinks.cells.unsent", lambda *_: iter([("csv", "new")]))
    list(run(config.model_copy(update={"logger": {"csv": {}}})))
    assert [about.name.partition(":")[0] for about in told] == ["WEAK SOURCE MODEL"] * 2
    assert all("weak source model" in about.tags for about in told)
