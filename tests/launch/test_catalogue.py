"""The lists are read from source files, and say what the registries and the classes say."""

import sys
from importlib.metadata import EntryPoint

import pytest

from tta_bench.errors import UserError
from tta_bench.launch import catalogue as module
from tta_bench.launch.catalogue import REGISTRIES, catalogue, matching, registries
from tta_bench.methods.base import METHODS
from tta_bench.methods.card import Card
from tta_bench.methods.options import default_options
from tta_bench.objectives.base import OBJECTIVES


@pytest.mark.parametrize(("name", "registry"), [("methods", METHODS), ("objectives", OBJECTIVES)])
def test_the_source_files_name_what_the_registry_holds(name, registry):
    assert list(catalogue(name).entries) == registry.names()
    assert registry.package == f"tta_bench.{name}"
    for entry in catalogue(name).entries.values():
        assert entry.heading == registry.get(entry.name).__doc__.splitlines()[0]


@pytest.mark.parametrize("name", METHODS.names())
def test_the_facts_in_the_source_are_the_card_of_the_class(name):
    method = METHODS.get(name)
    assert Card(**catalogue("methods").entries[name].facts) == method.card
    assert method.card.branches == method.branches(default_options(name))


def test_registries_without_an_item_are_not_offered():
    assert {"methods", "objectives"} <= set(registries()) <= set(REGISTRIES)


def test_names_match_patterns():
    assert matching("gra*", ["grata", "tent"]) == ["grata"]
    assert matching("*", ["grata", "tent"]) == ["grata", "tent"]
    with pytest.raises(UserError, match="did you mean 'tent'"):
        matching("tnt*", ["grata", "tent"])


GOOD = '@register_method("theirs")\nclass Theirs:\n    """Does things."""\n\n    card = Card(adapts="x", forwards=1)\n'


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Make a plug-in of a source file, and read the methods with it."""

    def install(source, value="their_plug_in", path="their_plug_in/__init__.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        point = EntryPoint("them", value, "tta_bench.methods")
        monkeypatch.setattr(module, "entry_points", lambda group: [point] if group == point.group else [])
        return catalogue.__wrapped__("methods")

    yield install
    assert "their_plug_in" not in sys.modules, "nothing is imported"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("their_plug_in", "their_plug_in/__init__.py"),
        ("their_plug_in", "their_plug_in/inner/method.py"),
        ("their_plug_in.method", "their_plug_in/method.py"),
        ("their_plug_in", "their_plug_in.py"),
    ],
)
def test_a_plug_in_is_read_wherever_its_module_lies(installed, tmp_path, value, path):
    if "/" in path:
        (tmp_path / "their_plug_in").mkdir()
        (tmp_path / "their_plug_in/__init__.py").write_text("")
    found = installed(GOOD, value, path)
    assert not found.broken
    assert found.entries["theirs"].heading == "Does things."
    assert found.entries["theirs"].facts == {"adapts": "x", "forwards": 1}
    assert list(found.entries) == sorted(found.entries)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_package.part\n" + GOOD, "No module named 'no_such_package'"),
        ("from no_such_package import part\n" + GOOD, "No module named 'no_such_package'"),
        ("def broken(:\n", "SyntaxError"),
        ("", "it has no @register_method(NAME)"),
        (GOOD.replace("theirs", "tent"), "'tent' exists: rename it"),
    ],
)
def test_a_broken_plug_in_is_told_and_the_others_are_listed(installed, source, words):
    found = installed(source)
    assert words in found.broken["them"]
    assert list(found.entries) == METHODS.names()


def test_a_plug_in_that_is_gone_is_told(installed):
    assert "No module named 'gone_plug_in'" in installed(GOOD, "gone_plug_in").broken["them"]
