"""What there is to choose from, read from the source files: names and facts cost no import, least of all torch's."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tta_bench.errors import UserError, nearest
from tta_bench.registry import entry_points
from tta_bench.runtime.paths import package_folder

_PACKAGE = Path(__file__).parents[1]

REGISTRIES = {
    "methods": ("methods", "register_method"),
    "systems": ("offline", "register_system"),
    "objectives": ("objectives", "register_objective", "register_pretext_task"),  # the latter's are objectives too
    "pretext_tasks": ("objectives", "register_pretext_task"),
    "readers": ("data/readers", "register_reader"),
    "networks": ("models/networks", "register_network"),
    "metrics": ("metrics", "register_metric"),
    "scenarios": ("adaptation/scenarios", "register_scenario"),
    "sinks": ("sinks", "register_sink"),
}
"""Registry -> the folder of its built-in items, and the decorators that register them.

Plug-ins name their modules in the entry-point group ``tta_bench.<registry>``.
"""


PLUGIN_GROUPS = {"method": "methods", "adapt": "systems", "data": "readers", "model": "networks", "logger": "sinks"}
"""Config group of which plug-ins may bring files as well -> the registry that their entry points name."""


@dataclass(frozen=True)
class Entry:
    """One registered class or function.

    Attributes:
        name: that it is chosen by.
        heading: the first line of its docstring.
        facts: what its decorator and its :class:`~tta_bench.methods.card.Card` are given by name, as far as literal.
    """

    name: str
    heading: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Catalogue:
    """One registry.

    Attributes:
        entries: name -> entry, sorted.
        broken: plug-in -> why it cannot be used.
    """

    entries: Mapping[str, Entry]
    broken: Mapping[str, str]


def registries() -> list[str]:
    """The registries that have built-in items."""
    return [name for name in REGISTRIES if any(_mentioning(*REGISTRIES[name]))]


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that match a pattern such as ``gra*``.

    Raises:
        UserError: none does.
    """
    matches = [name for name in names if fnmatchcase(name, pattern)]
    if not matches:
        raise UserError(f"no name matches '{pattern}': {nearest(pattern.strip('*?'), names)}")
    return matches


@cache
def catalogue(registry: str) -> Catalogue:
    """The built-in items of a registry and those of installed plug-ins.

    A plug-in is broken if its source cannot be read, imports a package that is not installed, registers nothing, or
    registers a name that exists.
    """
    folder, *decorators = REGISTRIES[registry]
    entries = {entry.name: entry for path in _mentioning(folder, *decorators) for entry in _entries(path, *decorators)}
    broken: dict[str, str] = {}
    for plugin in entry_points(group=f"tta_bench.{registry}"):
        try:
            added = {entry.name: entry for path in plugin_files(plugin) for entry in _entries(path, *decorators)}
            twice = added.keys() & entries.keys()
            if twice or not added:
                raise ImportError(f"'{min(twice)}' exists: rename it" if twice else f"it has no @{decorators[0]}(NAME)")
            entries |= added
        except (ImportError, OSError, SyntaxError, ValueError) as error:
            broken[plugin.name] = f"{plugin.value}: {type(error).__name__}: {error}"
    return Catalogue(dict(sorted(entries.items())), broken)


def plugin_files(plugin: EntryPoint) -> list[Path]:
    """The source files of a plug-in's module, all those of a package.

    Raises:
        ImportError: it is not installed, or imports a package that is not.
    """
    top, *inner = plugin.module.split(".")
    path = package_folder(plugin.module).joinpath(*inner)
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    for file in files:
        for package in _imported(file):
            if package != top and find_spec(package) is None:
                raise ModuleNotFoundError(f"No module named '{package}'")
    return files


def plugin_configs(group: str) -> Iterator[tuple[str, Path]]:
    """The plug-ins of a config group, each with one of its files in ``conf/<group>/`` beside its outermost package."""
    for plugin in entry_points(group=f"tta_bench.{PLUGIN_GROUPS[group]}"):
        with suppress(ImportError):  # told where its items are listed
            folder = package_folder(plugin.module) / "conf" / group
            yield from ((plugin.name, path) for path in sorted(folder.glob("*.yaml")))


def plugin_experiments() -> Iterator[tuple[str, Path]]:
    """The plug-ins, each with one of its files in ``experiments/`` beside its outermost package; each file once."""
    found: dict[Path, str] = {}
    for registry in REGISTRIES:
        for plugin in entry_points(group=f"tta_bench.{registry}"):
            with suppress(ImportError):  # told where its items are listed
                for path in sorted((package_folder(plugin.module) / "experiments").glob("*.yaml")):
                    found.setdefault(path, plugin.name)
    yield from ((plugin, path) for path, plugin in found.items())


def _mentioning(folder: str, *decorators: str) -> Iterator[Path]:
    """The files of a built-in folder in which one of the decorators is used."""
    for path in sorted((_PACKAGE / folder).glob("*.py")):
        if any(f"@{decorator}(" in path.read_text(encoding="utf-8") for decorator in decorators):
            yield path


def _imported(path: Path) -> set[str]:
    """The outermost packages that a file imports when it is imported itself."""
    body = ast.parse(path.read_bytes()).body
    names = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in body if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names}


def _entries(path: Path, *decorators: str) -> Iterator[Entry]:
    """What a file registers by ``@decorator("NAME", fact=…)``."""
    for item in ast.parse(path.read_bytes()).body:
        if isinstance(item, ast.ClassDef | ast.FunctionDef):
            for call in item.decorator_list:
                if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in decorators and call.args:
                    heading = (ast.get_docstring(item) or "").partition("\n")[0]
                    yield Entry(str(ast.literal_eval(call.args[0])), heading, _literals(call) | _card(item))


def _card(item: ast.ClassDef | ast.FunctionDef) -> dict[str, Any]:
    """The facts of ``card = Card(…)`` in the body of a class."""
    for node in item.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.targets[0]) == "card":
            return _literals(node.value)
    return {}


def _literals(call: ast.Call) -> dict[str, Any]:
    """The arguments of a call that are given by name and whose values are literals."""
    facts = {}
    for keyword in call.keywords:
        try:
            facts[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError:  # a function, for instance
            continue
    return facts
