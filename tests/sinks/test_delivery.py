"""Sinks: what arrived is known per destination, and nothing that goes wrong there reaches a result."""

import json
import sys
import time
from types import SimpleNamespace

import pytest

from made_tables import finish, planned
from tta_bench.schema import LoggerConfig
from tta_bench.sinks import delivery as sinks
from tta_bench.sinks.delivery import send, unsent, unsent_sentences

DESTINATION = {"name": "wandb", "project": "tta_bench", "entity": None, "group": None, "mode": "online"}
ONLINE = LoggerConfig(**DESTINATION)
OFFLINE = LoggerConfig(**DESTINATION | {"mode": "offline"})


@pytest.fixture
def cell(tmp_path, monkeypatch):
    """The folder of a finished cell; no destination has been given up."""
    monkeypatch.setattr(sinks, "_given_up", {})
    one = planned(tmp_path, "tent", {"method": "tent"}).cell
    finish(one, lambda target, index: 50.0 + index)
    return one.folder()


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the library that keeps what it is given; ``during`` is done in ``finish``."""
    fake = SimpleNamespace(runs=[], during=lambda: None)

    def init(**given):
        run = SimpleNamespace(given=given, logged=[], summary={}, finish=lambda: fake.during())
        run.log = run.logged.append
        fake.runs.append(run)
        return run

    fake.init, fake.Settings = init, lambda **values: values
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def raising(error):
    def during():
        raise error

    return during


def test_each_destination_gets_the_same_results_once(cell, wandb):
    destinations = [
        OFFLINE,
        ONLINE,
        LoggerConfig(**DESTINATION | {"project": "other"}),
        LoggerConfig(**DESTINATION | {"entity": "me"}),
    ]
    for config in destinations * 2:
        send(config, cell)
        assert unsent(config, cell) is None
    assert [run.given["mode"] for run in wandb.runs] == ["offline", "online", "online", "online"]
    assert wandb.runs[0].given["id"] == cell.hash
    assert len(wandb.runs[0].logged) == len(cell.finished()[1])


def test_changed_results_are_sent_again(cell, wandb):
    send(ONLINE, cell)
    path = cell.path / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dice": 12.5}))
    assert unsent(ONLINE, cell) is not None
    send(ONLINE, cell)
    assert [run.summary["dice"] for run in wandb.runs] == [51.0, 12.5]


def test_a_folder_of_the_library_is_no_acknowledgement(cell, wandb):
    (cell.path / "wandb").mkdir()
    for broken in ("", "{", "null", "[1, {}]", '{"sink": "wandb"}'):
        (cell.path / "sinks.json").write_text(broken)
        assert unsent(ONLINE, cell) is not None
    send(ONLINE, cell)
    assert len(wandb.runs) == 1
    assert unsent(ONLINE, cell) is None


@pytest.mark.parametrize(
    "error", [OSError("no route"), SystemExit(1), KeyError(), RuntimeError("two\nlines"), KeyboardInterrupt()]
)
def test_what_a_sink_raises_is_written_down_and_the_next_attempt_sends(cell, wandb, error):
    wandb.during = raising(error)  # half sent
    send(ONLINE, cell)
    assert unsent(ONLINE, cell) == (str(error).split("\n")[0] or type(error).__name__)
    wandb.during = lambda: None
    send(ONLINE, cell)
    assert unsent(ONLINE, cell) is None
    assert len(wandb.runs) == 2


def test_a_run_that_goes_nowhere_is_no_acknowledgement(cell, wandb, monkeypatch):
    init = wandb.init
    for where in ("offline", "disabled"):
        monkeypatch.setattr(
            wandb, "init", lambda where=where, **given: vars(run := init(**given)).update({where: True}) or run
        )
        send(ONLINE, cell)
        assert "log in" in unsent(ONLINE, cell)


def test_a_network_that_hangs_is_waited_for_once_and_not_for_ever(cell, wandb, monkeypatch, tmp_path):
    monkeypatch.setattr(sinks, "PATIENCE", 0.2)
    monkeypatch.setattr(sinks, "SLOW", 0.1)
    wandb.during = lambda: time.sleep(5)
    other = planned(tmp_path, "grata", {"method": "grata"}).cell
    finish(other, lambda target, index: 50.0)
    begin = time.monotonic()
    for folder in (cell, other.folder()):
        send(ONLINE, folder)
        assert unsent(ONLINE, folder) == "no answer within 0.2 seconds"
    assert time.monotonic() - begin < 2
    assert len(wandb.runs) == 1
    (sentence,) = unsent_sentences([(ONLINE, cell), (ONLINE, other.folder())], ["-m", "a=[1, 2]", "force=true"])
    assert "2 finished cells (no answer within 0.2 seconds)" in sentence
    assert sentence.endswith("python -m tta_bench -m 'a=[1, 2]'")
    wandb.during = lambda: None
    send(OFFLINE, cell)
    assert unsent(OFFLINE, cell) is None, "another destination"


def test_where_nothing_can_be_written_nothing_stops(cell, wandb, monkeypatch):
    (cell.path / "sinks.json").mkdir()
    send(ONLINE, cell)
    assert "no acknowledgement is written" in unsent(ONLINE, cell)


def test_without_a_sink_nothing_is_written(cell):
    send(LoggerConfig(name="none"), cell)
    assert not (cell.path / "sinks.json").exists()
