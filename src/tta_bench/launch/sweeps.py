"""Tables of any cells: rows are called by what differs, and what cannot be compared is in tables of its own."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_bench.cell import REFERENCE, Cell
from tta_bench.launch.experiment_files import Experiment
from tta_bench.launch.experiments import Plan, PlannedCell
from tta_bench.launch.stored import record_of
from tta_bench.methods.base import METHODS, Method
from tta_bench.methods.options import PRESETS, TUNED
from tta_bench.methods.space import space_of
from tta_bench.runtime.values import flat, typed

REPEATS = ("seed", "training.seed", "protocol.order")
"""Keys whose values are repeats of a row, which shows their mean."""

_FIRST = (REFERENCE, "bn_only")


@dataclass(frozen=True)
class Group:
    """Cells that can stand in one table.

    Attributes:
        settings: what tells the group from the others, as ``KEY=VALUE``; empty where it is the only one.
        plan: its rows and cells.
        folder: of its report, in that of all reports.
    """

    settings: str
    plan: Plan
    folder: str


def groups(cells: Sequence[Cell], name: str, description: str, folder: str = "") -> list[Group]:
    """Tables of the cells, each of one protocol, data set, network and training.

    Args:
        cells: of any methods and sources, at least one.
        name: of the table; with several, they are counted.
        description: what it shows, in a sentence.
        folder: of the report of them all; without one each has its own, called as the table.
    """
    unique = list({cell.folder().hash: cell for cell in cells}.values())
    settings = [_settings(cell) for cell in unique]
    for key in ("target", "checkpoint"):  # each source has its own; several of one source are in several tables
        variants: dict[str, list[str]] = defaultdict(list)
        numbers = []
        for cell, own in zip(unique, settings, strict=True):
            seen = variants[json.dumps([cell.config.source, own], sort_keys=True)]
            value = typed(record_of(cell).get(key))
            seen += [value] * (value not in seen)
            numbers.append(seen.index(value))
        for own, number in zip(settings, numbers, strict=True):
            own |= {key: number} if any(numbers) else {}
    found: dict[str, list[int]] = defaultdict(list)
    for number, own in enumerate(settings):
        found[json.dumps(own, sort_keys=True)].append(number)
    keys = differing(settings)
    texts = [
        " ".join(f"{_short(key)}={_common(key, [unique[k] for k in own], settings[own[0]])}" for key in keys)
        for own in found.values()
    ]
    names = [name] if len(found) == 1 else [f"{name}_{number}" for number in range(1, len(found) + 1)]
    plans = [
        _plan([unique[k] for k in own], each, description) for own, each in zip(found.values(), names, strict=True)
    ]
    folders = [folder] if folder and len(found) == 1 else [f"{folder}/{each}".lstrip("/") for each in names]
    return [Group(*each) for each in zip(texts, plans, folders, strict=True)]


def _common(key: str, cells: Sequence[Cell], settings: Mapping[str, Any]) -> str:
    """The value of a setting of a group; ``various`` where each source has its own."""
    if key not in ("target", "checkpoint"):
        return typed(settings.get(key))
    values = {typed(record_of(cell).get(key)) for cell in cells}
    return values.pop() if len(values) == 1 else "various"


def _plan(cells: Sequence[Cell], name: str, description: str) -> Plan:
    """The plan of comparable cells, what nothing and what test-image statistics alone would give first."""
    labels = row_labels(cells)
    methods = [cell.config.called for cell in cells]
    order = sorted(range(len(cells)), key=lambda k: _FIRST.index(methods[k]) if methods[k] in _FIRST else len(_FIRST))
    rows = {labels[k]: {"method": methods[k]} for k in order}
    reference = next((label for label, row in rows.items() if row["method"] == REFERENCE), next(iter(rows)))
    experiment = Experiment(name, description, rows, (), {}, {}, reference)
    return Plan(experiment, tuple(PlannedCell(labels[k], cells[k]) for k in order), ())


def row_labels(cells: Sequence[Cell]) -> list[str]:
    """Of comparable cells: the method, and those of its options in which its cells differ."""
    labels = [""] * len(cells)
    for method in dict.fromkeys(cell.config.called for cell in cells):
        own = [number for number, cell in enumerate(cells) if cell.config.called == method]
        options = [_options(cells[number]) for number in own]
        keys = differing(options)
        for number, each in zip(own, options, strict=True):
            labels[number] = " ".join([method, *(f"{_short(key)}={typed(each.get(key))}" for key in keys)])
    return labels


def differing(sections: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values differ; of several that differ in the same way the first alone, which tells the others."""
    found: dict[tuple[int, ...], str] = {}
    for key in dict.fromkeys(key for section in sections for key in section):
        values = [json.dumps(section.get(key)) for section in sections]
        distinct = list(dict.fromkeys(values))
        if len(distinct) > 1:
            found.setdefault(tuple(map(distinct.index, values)), key)
    return list(found.values())


def _settings(cell: Cell) -> dict[str, Any]:
    """Dotted keys and values that two numbers must share to be compared."""
    sections = ("protocol", "data", "model", "training")
    found = flat({key: value for key, value in record_of(cell).items() if key in sections})
    found |= flat({"predict": cell.config.predict.model_dump()})
    return {key: value for key, value in found.items() if key not in REPEATS}


def _options(cell: Cell) -> dict[str, Any]:
    method = {"preset": PRESETS[0], **{key: value for key, value in cell.method.items() if key != "name"}}
    if method["preset"] == TUNED:  # each source has its own values
        method = {key: value for key, value in method.items() if key not in space_of(kind_of(cell).Options)}
    config = cell.config
    beside = {"adapt": record_of(cell).get("adapt", {}), "route": config.route, "stages": bool(config.stages)}
    beside |= {"precision": config.precision, "diagnostics": config.diagnostics.model_dump(mode="json")}
    return flat({**{f"method.{key}": value for key, value in method.items()}, **beside})


def kind_of(cell: Cell) -> type[Method]:
    """The class of a cell's method."""
    return METHODS.get(cell.config.method["name"])


def _short(key: str) -> str:
    return key.removeprefix("method.").removesuffix(".name")


def split_sentences(found: Iterable[Group]) -> list[str]:
    """A sentence for what is not in one table, and why; none where everything is."""
    several = [group for group in found if group.settings]
    if not several:
        return []
    told = "; ".join(f"{group.plan.experiment.name}: {group.settings}" for group in several)
    return [f"numbers of other protocols, data, networks or trainings are not compared, each has its table ({told})"]
