"""Which code decides the numbers of a cell, and which of it has changed since a cell was computed.

A small linker: from a few roots (the method, its objectives, the network, the loop over the images) the names that
are used are followed through the modules, and the definitions reached are digested as syntax. Comments, docstrings,
formatting and annotations do not count, nor does a function that stands beside those that are used.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tta_bench.adaptation.scenarios.base import scenario_of
from tta_bench.methods.base import METHODS, Method
from tta_bench.methods.options import method_options
from tta_bench.metrics.base import METRICS, PRIMARY
from tta_bench.models.checkpoint.load import has_two_copies
from tta_bench.models.pretext import PRETEXT_TASKS
from tta_bench.models.segmentation import NETWORKS
from tta_bench.objectives.base import OBJECTIVES
from tta_bench.offline.base import SYSTEMS
from tta_bench.schema import RunConfig

PACKAGE = "tta_bench"


class Definition(NamedTuple):
    """What a module calls by a name.

    Attributes:
        module: its dotted name.
        name: at the top of the module; None for all that the module has.
    """

    module: str
    name: str | None = None


DOMAIN = Definition("tta_bench.data.domain", "Domain")  # the network's input and the truth, from the prepared images
ROOTS = (
    Definition("tta_bench.adaptation.compute", "compute"),  # the loop over the images, the scores and their averages
    Definition("tta_bench.methods.base", "Method"),
    Definition("tta_bench.metrics.dice"),  # found by its name; further metrics are taken from predictions at any time
    DOMAIN,
)
"""What every cell runs. Prepared images and source models are compared as such, by the hashes in ``summary.json``."""

EMPIRICAL_GRADIENT = Definition("tta_bench.adaptation.empirical_gradient")
CATENORM = Definition("tta_bench.models.catenorm", "CategoricalNorm")
SPOTTUNED = Definition("tta_bench.models.spottuned", "SpotTuned")
CONTINUAL = Definition("tta_bench.offline.continual", "after_stages")
STAGE = (
    Definition("tta_bench.offline.stage", "run_system"),
    Definition("tta_bench.offline.stage", "grounds_of"),  # which images a system sees
    Definition("tta_bench.source.examination", "home_of"),  # and which of the source it does not
    DOMAIN,
)
ROUTING = Definition("tta_bench.offline.routing", "routes_of")
OF_TRAINING = Definition("tta_bench.source.examination", "training_images")
BANK = Definition("tta_bench.offline.bank", "bank_of"), OF_TRAINING, DOMAIN

ACCOMPANIES = {
    Definition("tta_bench.adaptation.provenance"),
    Definition("tta_bench.schema"),  # the values are in the hash of the cell
    *(Definition(f"tta_bench.runtime.{name}_section") for name in ("files", "launch", "protocol", "training")),
    Definition("tta_bench.methods.options"),
    Definition("tta_bench.errors"),
    Definition("tta_bench.methods.card"),
    Definition("tta_bench.offline.card"),
    Definition("tta_bench.offline.options"),
    Definition("tta_bench.registry"),
    *(Definition(f"tta_bench.runtime.{name}") for name in ("files", "lightning", "memory", "signals", "transfer")),
    Definition("tta_bench.models.graphs"),  # the same kernels, played again
    Definition("tta_bench.data.prefetching"),  # what is drawn depends on the draw and the image alone
    Definition("tta_bench.records.snapshots"),  # a run that was stopped goes on to the same numbers
    Definition("tta_bench.records.store"),
    EMPIRICAL_GRADIENT,  # looks on; a root where it is asked for
    Definition("tta_bench.records.rescoring"),
    Definition("tta_bench.adaptation.sharing"),
    Definition("tta_bench.adaptation.lockstep"),  # streams do not depend on those beside them
    Definition("tta_bench.adaptation.part", "snapshot_key"),
    Definition("tta_bench.records.versions"),
    Definition("tta_bench.adaptation.progress"),
    Definition("tta_bench.adaptation.resumption"),
    Definition("tta_bench.adaptation.telling"),
}
"""What a cell runs too, and what its numbers do not depend on."""

SHOWN = ("card", "describe", "sentence")
"""Members of classes that say what a method or a scenario is; whether it draws at random is in the hash of the cell."""

_UNCOUNTED = {"annotation", "returns", "type_comment", "type_params", "type_ignores", "kind", "ctx", "simple"}
_LOOKUPS = {"bind_objective", "get"}
"""Functions that find an objective by its name, their first argument."""


def code_of(config: RunConfig, *more: Definition) -> dict[str, Any]:
    """Entries of ``summary.json``: ``code``, a digest of all that counts, and ``code_modules``, that of each module.

    Args:
        config: of a run.
        more: what counts beside what every cell runs.
    """
    method, options = METHODS.get(config.method["name"]), method_options(config.method)
    named = frozenset(_strings(asdict(options))).intersection(OBJECTIVES.names())
    heads = [_definition(PRETEXT_TASKS.get(branch).head) for branch in method.branches(options)]
    parts = [_definition(each) for kind in method.components(options) for each in _own_classes(kind)]
    others = [_definition(NETWORKS.get(config.model.name)), _definition(type(scenario_of(config.protocol.reset)))]
    others += [*heads, *parts, *more, *_asked_for(config)]
    if config.adapt is not None:
        others += [_definition(SYSTEMS.get(config.adapt["name"])), *STAGE]
    others += [EMPIRICAL_GRADIENT] if config.diagnostics.empirical_gradient else []
    classes = [_definition(each) for each in _own_classes(method)]
    objectives = [_definition(OBJECTIVES.get(name)) for name in sorted(named)]
    modules = _reached((*ROOTS, *classes, *others, *objectives))
    return {"code": _digest(repr(modules)), "code_modules": modules}


def system_code(config: RunConfig) -> str:
    """Digest of all that decides the weights of a run's adapted models, which are made anew where it changes."""
    assert config.adapt is not None
    system, network = _definition(SYSTEMS.get(config.adapt["name"])), _definition(NETWORKS.get(config.model.name))
    return _digest(repr(_reached((system, network, *STAGE, *_asked_for(config)))))


def _asked_for(config: RunConfig) -> list[Definition]:
    asked = (ROUTING, config.route), (CATENORM, config.model.norm), (CONTINUAL, config.stages)
    return [root for root, value in (*asked, (SPOTTUNED, has_two_copies(config.checkpoint))) if value]


def bank_code() -> str:
    """Digest of all that decides what is in a bank of source images."""
    return _digest(repr(_reached(BANK)))


def change_since(summary: Mapping[str, Any], config: RunConfig) -> str | None:
    """Why the numbers of a finished cell are no longer those of the present code, as a clause; None if they are."""
    now = code_of(config)
    if summary.get("code") == now["code"]:
        return None
    before = summary.get("code_modules")
    if not isinstance(before, Mapping):
        return "it is not known which code made it"
    modules = {*before, *now["code_modules"]}
    changed = sorted(name for name in modules if before.get(name) != now["code_modules"].get(name))
    return f"the code of {', '.join(changed)} changed since"


def metric_codes(config: RunConfig) -> dict[str, str]:
    """Entry ``metrics`` of ``summary.json``: each metric that is asked for -> digest of its code."""
    return {name: metric_code(name) for name in config.metrics}


def unscored(summary: Mapping[str, Any], config: RunConfig) -> list[str]:
    """The metrics beside Dice that a finished cell lacks, or has from other code than the present."""
    before = summary.get("metrics", {})
    return [name for name, code in metric_codes(config).items() if name != PRIMARY and before.get(name) != code]


def staleness(summary: Mapping[str, Any], config: RunConfig) -> str | None:
    """Why a finished cell is not all that is asked for, as a clause; None if it is."""
    lacking = unscored(summary, config)
    return change_since(summary, config) or (f"it has no {' and no '.join(lacking)} yet" if lacking else None)


@cache
def metric_code(name: str) -> str:
    """The digest of a metric's code."""
    root = _definition(METRICS.get(name).function)
    return _digest(repr(_sources(frozenset({root.module.partition(".")[0], PACKAGE})).digests([root], {})))


@cache
def _reached(roots: tuple[Definition, ...]) -> dict[str, str]:
    """Module -> digest of what these roots reach in it."""
    tops = frozenset(root.module.partition(".")[0] for root in roots)
    return _sources(tops).digests(roots, {name: _definition(OBJECTIVES.get(name)) for name in OBJECTIVES.names()})


def _own_classes(method: type[Method]) -> list[type]:
    """A method's class and its bases below :class:`Method`."""
    return [each for each in method.__mro__ if each not in Method.__mro__]


@cache
def _sources(tops: frozenset[str]) -> Sources:
    return Sources({top: place for top in sorted(tops) if (place := _place(top)) is not None})


def _place(top: str) -> Path | None:
    """Folder of a package or file of a module that is imported; None for one that has none, as in a notebook."""
    module = sys.modules.get(top)
    folders = list(getattr(module, "__path__", []))
    file = folders[0] if folders else getattr(module, "__file__", None)
    return Path(file) if file else None


def _definition(item: Any) -> Definition:
    return Definition(item.__module__, item.__qualname__.partition(".")[0])


def _strings(value: Any) -> Iterator[str]:
    """All texts among the values of options."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


@dataclass
class Statement:
    """A statement at the top of a module, or one name of an import.

    Attributes:
        text: its syntax, without what does not count.
        binds: names that it gives a meaning; none if it does anything else, and counts wherever its module does.
        uses: names that it reads, its own locals among them.
        imports: what it imports, at any depth.
        looked_up: texts by which it may find an objective.
    """

    text: str = ""
    binds: set[str] = field(default_factory=set)
    uses: set[str] = field(default_factory=set)
    imports: list[Definition] = field(default_factory=list)
    looked_up: set[str] = field(default_factory=set)


class Sources:
    """The source files of some packages, read once: a file edited while a sweep runs is not what the sweep runs.

    Args:
        places: top-level name -> folder of the package, or file of a module that is no package.
    """

    def __init__(self, places: Mapping[str, Path]) -> None:
        self._contents: dict[str, bytes] = {}
        self._packages: set[str] = set()
        for top, place in places.items():
            for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
                below = () if place.is_file() else path.relative_to(place).with_suffix("").parts
                package = below[-1:] == ("__init__",)
                name = ".".join((top, *(below[:-1] if package else below)))
                self._contents[name] = path.read_bytes()
                self._packages |= {name} if package else set()
        self._parsed: dict[str, list[Statement]] = {}

    def digests(self, roots: Iterable[Definition], objectives: Mapping[str, Definition]) -> dict[str, str]:
        """Module -> digest of what the roots reach in it, see :meth:`reach`; modules in alphabetical order."""
        reached = self.reach(roots, objectives)
        return {module: _digest("\n".join(each.text for each in reached[module])) for module in sorted(reached)}

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
            accompanies = module not in asked if whole in ACCOMPANIES else wanted in ACCOMPANIES
            if wanted in seen or accompanies or module not in self._contents:
                continue
            seen.add(wanted)
            for index, statement in enumerate(self.statements(module)):
                if index in reached.get(module, ()):
                    continue
                if name is None or name in statement.binds or not statement.binds:
                    reached.setdefault(module, set()).add(index)
                    pending += [Definition(module, used) for used in statement.uses]
                    pending += statement.imports
                    pending += [objectives[text] for text in statement.looked_up & objectives.keys()]
        return {module: [self.statements(module)[index] for index in sorted(reached[module])] for module in reached}

    def _whole_plugin(self, root: Definition) -> list[Definition]:
        top = root.module.partition(".")[0]
        if top == PACKAGE:
            return [root]
        return [Definition(name) for name in self._contents if name == top or name.startswith(f"{top}.")]

    def statements(self, module: str) -> list[Statement]:
        """Those at the top of a module that count, in order."""
        if module not in self._parsed:
            try:
                body = ast.parse(self._contents[module]).body
            except (SyntaxError, ValueError):  # nobody imports it, but it may be read
                self._parsed[module] = [Statement(text=repr(self._contents[module]))]
            else:
                package = module if module in self._packages else module.rpartition(".")[0]
                self._parsed[module] = [each for node in _counted(body) for each in self._read(node, package)]
        return self._parsed[module]

    def _read(self, node: ast.stmt, package: str) -> Iterator[Statement]:
        """The statement; an import of several names as several."""
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                (definition,) = self._imported(node, alias, package)
                name = alias.asname or alias.name.partition(".")[0]
                # A star counts wherever its module does, with everything that it brings in.
                yield Statement(repr((definition, name)), {name} - {"*"}, set(), [definition])
        else:
            statement = Statement(binds=set(_bound(node)))
            statement.text = repr(self._syntax(node, statement, package))
            yield statement

    def _imported(self, node: ast.Import | ast.ImportFrom, alias: ast.alias, package: str) -> list[Definition]:
        if isinstance(node, ast.Import):
            return [Definition(alias.name)]
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        inner = f"{module}.{alias.name}"
        if alias.name == "*" or inner in self._contents:
            return [Definition(module if alias.name == "*" else inner)]
        return [Definition(module, alias.name)]

    def _syntax(self, node: Any, into: Statement, package: str) -> Any:
        """Nested lists, the same in every version of Python; names are noted on the way."""
        if isinstance(node, list):
            return [self._syntax(each, into, package) for each in node]
        if not isinstance(node, ast.AST):
            return node
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            into.uses.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            into.imports += [each for alias in node.names for each in self._imported(node, alias, package)]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func
            called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
            if called in _LOOKUPS and isinstance(node.args[0].value, str):
                into.looked_up.add(node.args[0].value)
        values = []
        for key, value in ast.iter_fields(node):
            if key in ("body", "orelse", "finalbody") and isinstance(value, list):
                value = list(_counted(value, node))
            if key not in _UNCOUNTED and value is not None and value != []:
                values.append((key, self._syntax(value, into, package)))
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
