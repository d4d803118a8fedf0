"""A sink is one file and one YAML: everything that holds for W&B holds for any other."""

from typing import Any

import pytest
from pydantic import ConfigDict, Field

from made_tables import finish, planned
from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.schema import LoggerConfig
from tta_bench.sinks.base import SINKS, register_sink, sink_faults, sink_of
from tta_bench.sinks.delivery import send, unsent, unsent_sentences


class LinesOptions(LoggerConfig):
    model_config = ConfigDict(extra="forbid")

    path: str
    note: str | None = Field(default=None, exclude=True)


@pytest.fixture
def lines(monkeypatch):
    """A sink that appends a line per cell to a file."""
    SINKS.names()
    monkeypatch.setattr(SINKS, "_items", dict(SINKS._items))

    @register_sink("lines", "A file", LinesOptions)
    def append(options: LinesOptions, cell: Any, patience: float) -> None:
        with open(options.path, "a") as file:
            file.write(f"{cell.hash},{options.note},{patience}\n")


def test_another_sink_takes_each_cell_once_per_destination_and_is_told_by_its_title(lines, tmp_path):
    one = planned(tmp_path, "tent", {"method": "tent"}).cell
    finish(one, lambda target, index: 50.0)
    cell, (first, second) = one.folder(), (tmp_path / name for name in ("first", "second"))
    for path, note in ((first, "a"), (first, "b"), (second, "a")):
        config = LoggerConfig(name="lines", path=str(path), note=note)
        send(config, cell)
        assert unsent(config, cell) is None
    assert first.read_text() == second.read_text() == f"{cell.hash},a,60.0\n"
    nowhere = LoggerConfig(name="lines", path=str(tmp_path / "no/folder"))
    send(nowhere, cell)
    (sentence,) = unsent_sentences([(nowhere, cell)], [])
    assert sentence.startswith("A file did not take the results of 1 finished cell (")


def test_a_yaml_of_one_s_own_chooses_it_and_its_keys_are_checked_before_any_work(lines, tmp_path):
    (tmp_path / "logger").mkdir()
    (tmp_path / "logger/lines.yaml").write_text("name: lines\npath: results.csv\nnote: null\n")

    def configure(*words):
        (config,) = check(["+method=tent", "logger=lines", *words], multirun=False, config_dir=str(tmp_path))
        return config.logger

    _, options = sink_of(configure("logger.note=x"))
    assert options == LinesOptions(name="lines", path="results.csv", note="x")
    with pytest.raises(UserError, match=r"unknown key 'logger.pth': did you mean 'logger.path'\?"):
        configure("logger.pth=x")
    with pytest.raises(UserError, match=r"logger\.path=null: input should be a valid string"):
        configure("logger.path=null")


def test_no_sink_is_no_sink_and_an_unknown_one_is_refused_with_the_nearest():
    assert sink_of(LoggerConfig(name="none")) is None
    assert sink_faults({"name": "none"}) == ()
    assert sink_faults({"name": "wandbb"}) == ("unknown sink 'wandbb': did you mean 'wandb'?",)
    assert sink_faults({"name": "wandb", "entitty": "me"})[-1:] == (
        "unknown key 'logger.entitty': did you mean 'logger.entity'?",
    )
