import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint

import pytest

from tta_bench import registry
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS, Method
from tta_bench.objectives.base import OBJECTIVES
from tta_bench.registry import Registry

MODULES = {
    "toy_items/__init__.py": "from tta_bench.registry import Registry\nITEMS = Registry('item', 'toy_items')\n",
    "toy_items/apple.py": "from toy_items import ITEMS\nITEMS.register('apple')('built-in apple')\n",
    "toy_items/banana.py": "from toy_items import ITEMS\nITEMS.register('banana')('built-in banana')\n",
    "plugin_good.py": "from toy_items import ITEMS\nITEMS.register('cherry')('cherry of a plug-in')\n",
    "plugin_broken.py": "import a_package_that_does_not_exist\n",
    "plugin_half.py": "from toy_items import ITEMS\nITEMS.register('half')('half')\nraise RuntimeError('later')\n",
    "plugin_twice.py": "from toy_items import ITEMS\nITEMS.register('apple')('another apple')\n",
}


@pytest.fixture
def items(tmp_path, monkeypatch):
    """A registry of a package on disk with four plug-ins, three of them at fault."""
    for name, text in MODULES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    plugins = ["plugin_broken", "plugin_half", "plugin_twice", "plugin_good"]
    found = {"tta_bench.items": [EntryPoint(name, name, "tta_bench.items") for name in plugins]}
    monkeypatch.setattr(registry, "entry_points", lambda group: found.get(group, []))
    import toy_items

    yield toy_items.ITEMS
    for name in [name for name in sys.modules if name.split(".")[0] in ("toy_items", *plugins)]:
        del sys.modules[name]


def test_built_in_items_and_plug_ins_are_found_by_name(items):
    assert items.names() == ["apple", "banana", "cherry"]
    assert items.get("cherry") == "cherry of a plug-in"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", ["apple", "banana", "cherry"]),
        ("ba*", ["banana"]),
        ("*rr*", ["cherry"]),
        ("?????", ["apple"]),
        ("[ac]*", ["apple", "cherry"]),
        ("apple", ["apple"]),
        ("Apple", []),
        ("", []),
    ],
)
def test_names_are_listed_by_wildcards(items, pattern, names):
    assert items.names(pattern) == names


def test_the_nearest_name_is_that_of_a_plug_in_too(items):
    assert items.nearest("chery") == "did you mean 'cherry'?"


@pytest.mark.parametrize(
    ("kind", "group"), [("method", "tta_bench.methods"), ("pretext task", "tta_bench.pretext_tasks")]
)
def test_plug_ins_register_in_a_group_that_is_called_like_the_kind(kind, group):
    assert Registry(kind, "nowhere").group == group


def test_a_single_module_may_hold_all_items(tmp_path, monkeypatch):
    text = "from tta_bench.registry import Registry\nTOYS = Registry('toy', 'toys')\nTOYS.register('ball')('round')\n"
    (tmp_path / "toys.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    from toys import TOYS

    assert TOYS.names() == ["ball"]


def test_a_broken_plug_in_stops_no_other_and_leaves_nothing_half_registered(items):
    items.names()
    assert set(items.broken_plugins) == {"plugin_broken", "plugin_half", "plugin_twice"}
    assert "a_package_that_does_not_exist" in items.broken_plugins["plugin_broken"]
    assert "RuntimeError: later" in items.broken_plugins["plugin_half"]
    assert items.get("apple") == "built-in apple"


def test_an_unknown_name_names_the_broken_plug_ins_too(items):
    with pytest.raises(UserError) as raised:
        items.get("half")
    assert len(raised.value.faults) == 4
    assert any("plug-in plugin_half cannot be imported" in fault for fault in raised.value.faults)


def test_a_name_is_given_once():
    items = Registry("item", "nowhere")
    items.register("apple")("first")
    with pytest.raises(ValueError, match=r"item 'apple' is registered twice: first and second"):
        items.register("apple")("second")


def test_register_returns_what_it_decorates():
    @Registry("item", "nowhere").register("apple")
    def function():
        return 3

    assert function() == 3


def test_an_unknown_name_is_answered_with_the_nearest(items):
    with pytest.raises(UserError, match=r"unknown item 'aple': did you mean 'apple'\?"):
        items.get("aple")
    with pytest.raises(UserError, match=r"unknown item 'zzz': choose one of: apple, banana, cherry"):
        items.get("zzz")


def test_the_package_s_own_methods_and_objectives_are_registered():
    assert {"no_adapt", "bn_only", "tent", "grata"} <= set(METHODS.names())
    assert {"entropy", "consistency"} <= set(OBJECTIVES.names())
    assert all(issubclass(METHODS.get(name), Method) for name in METHODS.names())


def test_threads_that_come_while_a_registry_is_filled_wait_for_it(tmp_path, monkeypatch):
    (tmp_path / "slow_items").mkdir()
    text = "from tta_bench.registry import Registry\nITEMS = Registry('item', 'slow_items')\n"
    (tmp_path / "slow_items/__init__.py").write_text(text)
    for name in ("first", "second"):
        text = f"import time\nfrom slow_items import ITEMS\ntime.sleep(0.2)\nITEMS.register('{name}')('{name} one')\n"
        (tmp_path / f"slow_items/{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    from slow_items import ITEMS

    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(ITEMS.get, ["second", "first"] * 2)] == ["second one", "first one"] * 2
