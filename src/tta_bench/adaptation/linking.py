"""A small linker on the syntax of source files: what the names that are used lead to, and a digest of it.

Comments, docstrings, formatting and annotations do not count, nor does a function that stands beside those that are
used.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = "tta_bench"


class Definition(NamedTuple):
    """What a module calls by a name.

    Attributes:
        module: its dotted name.
        name: at the top of the module; None for all that the module has.
    """

    module: str
    name: str | None = None


SHOWN = ("card", "describe", "sentence")
"""Members of classes that say what a method or a scenario is; whether it draws at random is in the hash of the cell."""

_UNCOUNTED = {"annotation", "returns", "type_comment", "type_params", "type_ignores", "kind", "ctx", "simple"}
_LOOKUPS = {"bind_objective", "get"}
"""Functions that find an objective by its name, their first argument."""


def digest(text: str) -> str:
    """16 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


@dataclass
class Statement:
    """A statement at the top of a module, or one name of an import.

    Attributes:
        binds: names that it gives a meaning; none if it does anything else, and counts wherever its module does.
        unread: itself, as long as nothing has reached it and all that follows here is empty.
        text: its syntax, without what does not count.
        uses: names that it reads, its own locals among them.
        imports: what it imports, at any depth.
        looked_up: texts by which it may find an objective.
    """

    binds: set[str] = field(default_factory=set)
    unread: ast.stmt | None = None
    text: str = ""
    uses: set[str] = field(default_factory=set)
    imports: list[Definition] = field(default_factory=list)
    looked_up: set[str] = field(default_factory=set)


class Parsed(NamedTuple):
    """A module: its statements, and by each name the places of those that bind it; by an empty one of all others."""

    statements: list[Statement]
    places: dict[str, list[int]]


class Sources:
    """The source files of some packages, read once: a file edited while a sweep runs is not what the sweep runs.

    Args:
        places: top-level name -> folder of the package, or file of a module that is no package.
        left_out: what names do not lead to.
    """

    def __init__(self, places: Mapping[str, Path], left_out: Collection[Definition]) -> None:
        self._left_out = left_out
        self._contents: dict[str, bytes] = {}
        self._packages: set[str] = set()
        for top, place in places.items():
            for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
                below = () if place.is_file() else path.relative_to(place).with_suffix("").parts
                package = below[-1:] == ("__init__",)
                name = ".".join((top, *(below[:-1] if package else below)))
                self._contents[name] = path.read_bytes()
                self._packages |= {name} if package else set()
        self._parsed: dict[str, Parsed] = {}

    def digests(self, roots: Iterable[Definition], objectives: Mapping[str, Definition]) -> dict[str, str]:
        """Module -> digest of what the roots reach in it, see :meth:`reach`; modules in alphabetical order."""
        reached = self.reach(roots, objectives)
        return {module: digest("\n".join(each.text for each in reached[module])) for module in sorted(reached)}

    def reach(self, roots: Iterable[Definition], objectives: Mapping[str, Definition]) -> dict[str, list[Statement]]:
        """Follow names from the roots.

        Args:
            roots: where to begin; one in another package than this stands for all modules of that package.
            objectives: name -> where it is defined.

        Returns:
            Module -> the statements reached in it, in the order of the file.
        """
        pending = [each for root in roots for each in self._whole_plugin(root)]
        asked = {definition.module for definition in pending}
        seen: set[Definition] = set()
        reached: dict[str, set[int]] = {}
        while pending:
            wanted = pending.pop()
            module, name = wanted
            whole = Definition(module)
            is_left_out = module not in asked if whole in self._left_out else wanted in self._left_out
            if wanted in seen or is_left_out or module not in self._contents:
                continue
            seen.add(wanted)
            for index in self._needed(module, name):
                if index not in reached.get(module, ()):
                    reached.setdefault(module, set()).add(index)
                    statement = self._read(module, index)
                    pending += [Definition(module, used) for used in statement.uses]
                    pending += statement.imports
                    pending += [objectives[text] for text in statement.looked_up & objectives.keys()]
        return {module: [self.statements(module)[index] for index in sorted(reached[module])] for module in reached}

    def _whole_plugin(self, root: Definition) -> list[Definition]:
        top = root.module.partition(".")[0]
        if top == PACKAGE:
            return [root]
        return [Definition(name) for name in self._contents if name == top or name.startswith(f"{top}.")]

    def _needed(self, module: str, name: str | None) -> Sequence[int]:
        """The places of the statements that a name takes: what binds it, and what binds nothing; without a name all."""
        statements, places = self._parse(module)
        return range(len(statements)) if name is None else [*places.get(name, ()), *places.get("", ())]

    def statements(self, module: str) -> list[Statement]:
        """Those at the top of a module that count, in order."""
        return self._parse(module).statements

    def _parse(self, module: str) -> Parsed:
        if module not in self._parsed:
            try:
                body = ast.parse(self._contents[module]).body
            except (SyntaxError, ValueError):  # nobody imports it, but it may be read
                statements = [Statement(text=repr(self._contents[module]))]
            else:
                statements = [each for node in _counted(body) for each in self._split(node, module)]
            places: dict[str, list[int]] = {}
            for index, statement in enumerate(statements):
                for name in statement.binds or {""}:
                    places.setdefault(name, []).append(index)
            self._parsed[module] = Parsed(statements, places)
        return self._parsed[module]

    def _split(self, node: ast.stmt, module: str) -> Iterator[Statement]:
        """The statement; an import of several names as several."""
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                (definition,) = self._imported(node, alias, module)
                name = alias.asname or alias.name.partition(".")[0]
                # A star counts wherever its module does, with everything that it brings in.
                yield Statement({name} - {"*"}, text=repr((definition, name)), imports=[definition])
        else:
            yield Statement(set(_bound(node)), node)

    def _read(self, module: str, index: int) -> Statement:
        """A statement with all that is to be known of it; of most nobody asks."""
        statement = self.statements(module)[index]
        if statement.unread is not None:
            statement.text, statement.unread = repr(self._syntax(statement.unread, statement, module)), None
        return statement

    def _imported(self, node: ast.Import | ast.ImportFrom, alias: ast.alias, by: str) -> list[Definition]:
        """What one name of an import in a module stands for."""
        if isinstance(node, ast.Import):
            return [Definition(alias.name)]
        package = by.split(".") if by in self._packages else by.split(".")[:-1]
        above = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        inner = f"{module}.{alias.name}"
        if alias.name == "*" or inner in self._contents:
            return [Definition(module if alias.name == "*" else inner)]
        return [Definition(module, alias.name)]

    def _syntax(self, node: Any, into: Statement, module: str) -> Any:
        """Nested lists, the same in every version of Python; names are noted on the way."""
        if isinstance(node, list):
            return [self._syntax(each, into, module) for each in node]
        if not isinstance(node, ast.AST):
            return node
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            into.uses.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            into.imports += [each for alias in node.names for each in self._imported(node, alias, module)]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
            if called in _LOOKUPS and isinstance(node.args[0].value, str):
                into.looked_up.add(node.args[0].value)
        values = []
        for key in node._fields:
            if key in _UNCOUNTED or (value := getattr(node, key, None)) is None:
                continue
            if key in ("body", "orelse", "finalbody") and isinstance(value, list):
                value = list(_counted(value, node))
            if value != []:
                values.append((key, self._syntax(value, into, module)))
        return (type(node).__name__, *values)


def _counted(body: Iterable[ast.stmt], owner: ast.AST | None = None) -> Iterator[ast.stmt]:
    """The statements of a body that can change a number, without their annotations."""
    of_class = isinstance(owner, ast.ClassDef)
    for node in body:
        match node:
            case ast.Pass() | ast.Expr(value=ast.Constant()) | ast.ImportFrom(module="__future__"):
                continue
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                yield from _counted(node.orelse, owner)
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                continue
            case ast.FunctionDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]) if of_class and name in SHOWN:
                continue
            case ast.AnnAssign(target=ast.Name(id=name)) if of_class and name in SHOWN:
                continue
            case ast.AnnAssign(value=None) if not of_class:
                continue
            case ast.AnnAssign(value=ast.expr() as value) if not getattr(owner, "decorator_list", None) or not of_class:
                yield ast.Assign(targets=[node.target], value=value)
            case _:  # an annotation makes a field of a dataclass
                yield node


def _bound(node: ast.AST) -> Iterator[str]:
    """Names that a statement at the top of a module gives a meaning, and nothing else happens; else none."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets) | ast.Tuple(elts=targets) | ast.List(elts=targets):
            for target in targets:
                yield from _bound(target)
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.AugAssign(target=ast.Name(id=name)) | ast.Name(id=name):
            yield name
        case ast.Starred(value=value):
            yield from _bound(value)
