"""The files of ``experiments/``: a table is a list of rows, each a variant of a method, on every source.

A file holds ``rows`` (label -> what the row sets), optionally ``sweep`` (further keys, as in Hydra's
``hydra.sweeper.params``), ``paper`` (the number of a table in ``paper.csv``) and ``reference`` (the row that the
others are compared with). Hydra's sweeper knows full products only; so every row becomes a choice of the config
group ``row``, and the sweep is the product of rows, sources and whatever else the file sweeps over.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from tta_bench.launch.catalogue import catalogue
from tta_bench.runtime.paths import EXPERIMENTS_DIR

CONTROLS = {"no_adapt": {"method": "no_adapt"}, "bn_only": {"method": "bn_only"}}
"""Rows that every table has besides its own: what nothing, and what test-image statistics alone, would give."""

EVERY_METHOD = "*"
"""A row of this method stands for one row of every registered method."""


@dataclass(frozen=True)
class Experiment:
    """One table or figure.

    Attributes:
        name: of its file.
        description: the heading comment of its file.
        rows: label -> key -> value, the controls last; ``method`` is among the keys.
        controls: labels of those rows that the table itself does not list.
        sweep: further keys that are swept over, in Hydra's grammar.
        paper: label -> source (``A`` to ``E``, ``average``) -> Dice in the paper; empty where it has none.
        reference: label of the row that the others are compared with.
    """

    name: str
    description: str
    rows: Mapping[str, Mapping[str, Any]]
    controls: tuple[str, ...]
    sweep: Mapping[str, str]
    paper: Mapping[str, Mapping[str, float]]
    reference: str

    def choices(self) -> dict[str, str]:
        """Option of the config group ``row`` -> label."""
        return {f"{self.name}_{number:02d}": label for number, label in enumerate(self.rows, 1)}

    def row_config(self, label: str) -> dict[str, Any]:
        """The config of a row: its method's, with what the row sets; ``row`` says that it is one."""
        values = dict(self.rows[label])
        method = values.pop("method")
        config: dict[str, Any] = {"defaults": [{"/method@_global_.method": method}, "_self_"], "row": label}
        for key, value in values.items():
            *parents, leaf = key.split(".")
            section = config
            for parent in parents:
                section = section.setdefault(parent, {})
            section[leaf] = value
        return config

    def sweep_config(self) -> dict[str, Any]:
        """The config of ``experiment=NAME``: Hydra sweeps over the rows and over what the file sweeps over."""
        from tta_bench.launch.text import TEXTS, escaped, quote  # `tta-bench list` has no use for Hydra

        # Hydra resolves what stands in a configuration once more than what is typed.
        swept = {key: escaped(quote(key, text).partition("=")[2]) for key, text in self.sweep.items() if key in TEXTS}
        params = {"+row": ",".join(self.choices()), **self.sweep, **swept}
        return {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": params}}}


@cache
def read_experiments() -> Mapping[str, Experiment]:
    """All experiments by name, read once."""
    return MappingProxyType({path.stem: _read(path) for path in sorted(EXPERIMENTS_DIR.glob("*.yaml"))})


def _read(path: Path) -> Experiment:
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    rows: dict[str, Any] = {}
    for label, values in content["rows"].items():
        if values["method"] == EVERY_METHOD:
            rows |= {name: values | {"method": name} for name in catalogue("methods").entries}
        else:
            rows[label] = values
    present = [list(values.items()) for values in rows.values()]
    controls = {label: values for label, values in CONTROLS.items() if list(values.items()) not in present}
    return Experiment(
        name=path.stem,
        description=heading(text),
        rows=MappingProxyType(rows | controls),
        controls=tuple(controls),
        # As text: a name such as 1_1 would be read as a number.
        sweep=MappingProxyType(dict(yaml.load(text, Loader=yaml.BaseLoader).get("sweep") or {})),
        paper=MappingProxyType(_paper().get(str(content.get("paper")), {})),
        reference=content.get("reference", "no_adapt"),
    )


@cache
def _paper() -> dict[str, dict[str, dict[str, float]]]:
    """Table -> row -> source -> Dice, as printed in the GraTa paper."""
    tables: dict[str, dict[str, dict[str, float]]] = {}
    with (EXPERIMENTS_DIR / "paper.csv").open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            table, row = line.pop("table"), line.pop("row")
            tables.setdefault(table, {})[row] = {source: float(dice) for source, dice in line.items()}
    return tables


def heading(text: str) -> str:
    """The comment at the head of a YAML file."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("# ") or line.startswith("# @"):
            break
        lines.append(line[2:])
    return " ".join(lines)
