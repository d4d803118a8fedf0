"""The cells of a results folder as a list: what each is, what differs from the defaults, and how it stands."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import Any, NamedTuple

from hydra.errors import HydraException
from omegaconf import OmegaConf
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from tta_bench.cell import REFERENCE, Cell
from tta_bench.errors import UserError
from tta_bench.launch.composition import Composer
from tta_bench.launch.stored import record_of
from tta_bench.methods.options import default_options
from tta_bench.report.cells import Standing, standing
from tta_bench.report.console import narrow_table
from tta_bench.report.text import number
from tta_bench.runtime.names import csv_file, literal
from tta_bench.runtime.values import flat, typed

COLUMNS = ("hash", "method", "differs", "source", "target", "training_seed", "order", "seed", *Standing._fields)
"""Of the CSV; cells can be chosen by each but what differs, see :func:`tta_bench.launch.stored.facts`."""

_OWN_COLUMN = ("source", "target", "seed", "method.name", "training.seed", "protocol.order")


class Listed(NamedTuple):
    """One cell.

    Attributes:
        cell: that it is.
        differs: what is not as by default, each as ``KEY=VALUE``.
        standing: how it stands.
    """

    cell: Cell
    differs: tuple[str, ...]
    standing: Standing


def listed(cells: Sequence[Cell], hydra: Composer) -> list[Listed]:
    """The cells by method, what differs, source and seed; ``hydra`` knows the defaults."""
    usual = Usual(hydra)
    found = [Listed(cell, usual.differs(cell), standing(cell)) for cell in cells]
    return sorted(found, key=lambda one: (one.cell.config.called, one.differs, one.cell.config.source))


class Usual:
    """The defaults of a run, per choice of data set and network.

    Args:
        hydra: that composes them.
    """

    def __init__(self, hydra: Composer) -> None:
        self.hydra = hydra
        self._of = cache(self._composed)
        self._trainings = hydra.options("training")

    def differs(self, cell: Cell) -> tuple[str, ...]:
        """What is not as by default: choices of groups first, then keys that are not as their choice has them."""
        config = cell.config
        data, model = config.data.name, config.model.name
        found = flat({key: value for key, value in record_of(cell).items() if key not in ("method", "adapt")})
        rest = [(training, self._different(found, self._of(data, model, training))) for training in self._trainings]
        training, keys = min(rest, key=lambda each: len(each[1]))
        first = self._of(*self._default)
        chosen = {"data": data, "model": model, "training": training, "checkpoint": config.checkpoint}
        words = [f"{key}={typed(str(value))}" for key, value in chosen.items() if str(value) != str(first.get(key))]
        words += [f"{key.removesuffix('.name')}={typed(found[key])}" for key in keys if key != "checkpoint"]
        return *self._options(cell), *words

    def _options(self, cell: Cell) -> list[str]:
        method = {key: value for key, value in cell.method.items() if key != "name"}
        try:
            preset = {"preset": method["preset"]} if "preset" in method else {}
            default = flat({"preset": "uniform", **asdict(default_options(cell.config.method["name"], **preset))})
        except UserError:  # of a plug-in whose file is gone
            default = {}
        own = flat(method)
        return [f"{key}={typed(value)}" for key, value in own.items() if _plain(default.get(key)) != _plain(value)]

    @cached_property
    def _default(self) -> tuple[str, str, str]:
        config: Any = OmegaConf.to_container(self.hydra.compose([f"+method={REFERENCE}"]), resolve=True)
        return config["data"]["name"], config["model"]["name"], config["training"]["name"]

    def _composed(self, data: str, model: str, training: str) -> dict[str, Any]:
        """Dotted keys of a run of these choices, and the choices; those of the defaults where there are none such."""
        choices = [f"data={data}", f"model={model}", f"training={training}"]
        known = [text for text in choices if text.partition("=")[2] in self.hydra.options(text.partition("=")[0])]
        try:
            composed = self.hydra.compose([*known, f"+method={REFERENCE}"])
        except HydraException:
            composed = self.hydra.compose([f"+method={REFERENCE}"])
        content: Any = OmegaConf.to_container(composed, resolve=True)
        return {**flat(content), "data": data, "model": model, "training": training}

    def _different(self, found: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
        """Keys whose values are others; groups' own names are told by the choices."""
        left_out = {*_OWN_COLUMN, "data.name", "model.name", "data.root"}
        return [
            key
            for key, value in found.items()
            if key not in left_out and key in usual and _plain(usual[key]) != _plain(value)
        ]


def _plain(value: Any) -> Any:
    """As it is read back: 15 and 15.0 are equal, and so are lists and tuples."""
    return json.loads(json.dumps(value))


def cells_table(found: Sequence[Listed], width: int = 80, now: datetime | None = None) -> Table:
    """For a terminal: what differs from the defaults is below a cell's hash, and what all cells share above the table.

    Targets are told where cells of one source have several.

    Args:
        found: the cells, at least one.
        width: of the terminal; words are broken where they have no room at all in it, and nowhere else.
        now: what ages are counted to; default: the present.
    """
    shared = [word for word in found[0].differs if all(word in one.differs for one in found)] if len(found) > 1 else []
    targets: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for one in found:
        targets[one.cell.config.source].add(one.cell.targets)
    rows = []
    for one in found:
        config = one.cell.config
        repeats = {"training": config.training.seed, "order": config.protocol.order}
        seeds = "/".join(map(str, (one.cell.seed, *(repeats.values() if any(repeats.values()) else ()))))
        told = [f"target={','.join(one.cell.targets)}"] * (len(targets[config.source]) > 1)
        own = " ".join([*told, *(word for word in one.differs if word not in shared)])
        status, score, _, time = one.standing
        dice = number(score) if score is not None else ""
        age = _age(time, now or datetime.now(UTC))
        hashed = Text("\n").join(literal(text) for text in (one.cell.folder().hash, own) if text)
        rows.append([hashed, *map(literal, (config.called, config.source, seeds, dice, status, age))])
    table = narrow_table(f"all cells: {' '.join(shared)}" if shared else "")
    table.title_justify = "left"
    headings = ("cell", "method", "source", "seed", "Dice", "status", "age")
    columns = [[heading, *(row[place].plain for row in rows)] for place, heading in enumerate(headings)]
    natural = [max(map(cell_len, texts)) for texts in columns]
    words = [max((cell_len(word) for text in texts for word in text.split()), default=1) for texts in columns]
    fits = words[0] + sum(natural[1:]) + 2 * (len(columns) - 1) <= width
    table.padding = (0, 1 if fits else 0)
    table.add_column("cell", overflow="fold")
    for place, heading in enumerate(headings[1:], start=1):
        breaks = heading in ("method", "source") and not fits
        justify: Any = "right" if heading in ("seed", "Dice", "age") else "left"
        table.add_column(heading, width=words[place] if breaks else natural[place], overflow="fold", justify=justify)
    for row in rows:
        table.add_row(*row)
    if any(config.training.seed or config.protocol.order for config in (one.cell.config for one in found)):
        table.caption = "seed: of the draws/of the training/order of the images"
    return table


def cells_csv(found: Sequence[Listed]) -> str:
    """As :data:`COLUMNS`."""
    rows = []
    for one in found:
        config = one.cell.config
        values = (
            one.cell.folder().hash,
            config.called,
            " ".join(one.differs),
            config.source,
            ",".join(one.cell.targets),
        )
        seeds = (config.training.seed, config.protocol.order, one.cell.seed)
        stands = ("" if value is None else value for value in one.standing)
        rows.append(dict(zip(COLUMNS, (*values, *seeds, *stands), strict=True)))
    return csv_file(COLUMNS, rows)


def _age(time: str, now: datetime) -> str:
    """How long ago, in the largest unit of which there is one.

    >>> _age("2026-01-01T00:00:00+00:00", datetime(2026, 1, 3, tzinfo=UTC))
    '2 d'
    """
    try:
        seconds = (now - datetime.fromisoformat(time)).total_seconds()
    except (ValueError, TypeError):
        return ""
    unit, size = next(
        ((unit, size) for unit, size in (("d", 86400), ("h", 3600), ("min", 60)) if seconds >= size), ("s", 1)
    )
    return f"{max(0, int(seconds // size))} {unit}"
