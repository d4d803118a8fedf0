"""Experiments, shipped, of plug-ins and of users: rows, each a variant of a method, on every source.

A file holds ``rows`` (label -> what the row sets), optionally ``sweep`` (further keys, as in Hydra's
``hydra.sweeper.params``), ``paper`` (the number of a table in ``paper.csv``) and ``reference`` (the row that the
others are compared with). Hydra's sweeper knows full products only; so every row becomes a choice of the config
group ``row``, and the sweep is the product of rows, sources and whatever else the file sweeps over.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tta_bench.errors import UserError, nearest
from tta_bench.launch.catalogue import catalogue, plugin_experiments
from tta_bench.launch.experiment_syntax import read_content
from tta_bench.runtime.files import warn_once
from tta_bench.runtime.paths import EXPERIMENTS_DIR

log = logging.getLogger(__name__)

CONTROLS = {"no_adapt": {"method": "no_adapt"}, "bn_only": {"method": "bn_only"}}
"""Rows that every table has besides its own: what nothing, and what test-image statistics alone, would give."""

ROW_GROUPS = {"method": "/method@_global_.method", "adapt": "override /adapt"}
"""Groups of which a row makes a choice, as Hydra's list of defaults has it; its other keys are single ones.

A run has no method by default, and has a default of the other.
"""

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
        path: of its file, as it was given; None for an installed one, which is chosen by its name.
    """

    name: str
    description: str
    rows: Mapping[str, Mapping[str, Any]]
    controls: tuple[str, ...]
    sweep: Mapping[str, str]
    paper: Mapping[str, Mapping[str, float]]
    reference: str
    path: str | None = None

    @property
    def word(self) -> str:
        """What it is chosen by."""
        return self.path or self.name

    def choices(self) -> dict[str, str]:
        """Option of the config group ``row`` -> label."""
        return {f"{self.name}_{number:02d}": label for number, label in enumerate(self.rows, 1)}

    def row_config(self, label: str) -> dict[str, Any]:
        """The config of a row: its method's, with what the row sets; ``row`` says that it is one."""
        values = dict(self.rows[label])
        chosen = [{ROW_GROUPS[group]: values.pop(group)} for group in ROW_GROUPS if group in values]
        # Hydra wants what overrides to stand last.
        config: dict[str, Any] = {"defaults": [*chosen[:1], "_self_", *chosen[1:]], "row": label}
        for key, value in values.items():
            *parents, leaf = key.split(".")
            section = config
            for parent in parents:
                section = section.setdefault(parent, {})
            section[leaf] = value
        return config

    def sweep_config(self) -> dict[str, Any]:
        """The config of ``experiment=NAME``: Hydra sweeps over the rows and over what the file sweeps over."""
        from tta_bench.launch.text import escaped, quote, text_kind  # `tta-bench list` has no use for Hydra

        # Hydra resolves what stands in a configuration once more than what is typed.
        swept = {key: escaped(quote(key, text).partition("=")[2]) for key, text in self.sweep.items() if text_kind(key)}
        params = {"+row": ",".join(self.choices()), **self.sweep, **swept}
        return {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": params}}}


_given: dict[str, Experiment] = {}
"""Experiments of users, by name, once they are chosen by their path."""


def read_experiments() -> Mapping[str, Experiment]:
    """All experiments by name: those shipped, those of plug-ins, and those that :func:`find_experiment` was given."""
    return MappingProxyType({**_installed(), **_given})


def find_experiment(word: str, config_dir: str | None = None) -> str | None:
    """The name of an experiment, which is read if it is chosen by its path.

    Args:
        word: a name, or the path of a YAML file.
        config_dir: a folder with further experiments in ``experiments/``, of Hydra's flag ``--config-dir``.

    Returns:
        None if there is none of that name.

    Raises:
        UserError: the file does not exist, holds no experiment, or has the name of one that exists.
    """
    own = Path(config_dir) / "experiments" / f"{word}.yaml" if config_dir is not None else None
    if "/" in word or word.endswith((".yaml", ".yml")):
        path = Path(word).expanduser()
        if not path.is_file():
            raise UserError(f"experiment={word} is no file: check the path, or {nearest('', read_experiments())}")
    elif own is not None and own.is_file():
        path = own
    else:
        return word if word in read_experiments() else None
    experiment = _read(path)
    if experiment.name in _installed():
        raise UserError(f"{path}: experiment={experiment.name} exists: rename the file")
    _given[experiment.name] = replace(experiment, path=str(path))
    return experiment.name


@cache
def _installed() -> Mapping[str, Experiment]:
    """Those shipped and those of plug-ins, read once; what cannot be used of a plug-in is told in a warning."""
    found = {path.stem: _read(path) for path in sorted(EXPERIMENTS_DIR.glob("*.yaml"))}
    for plugin, path in plugin_experiments():
        if path.stem in found:
            warn_once(log, f"plug-in {plugin} brings experiment={path.stem}, which exists: rename it")
            continue
        try:
            found[path.stem] = _read(path)
        except UserError as error:
            for fault in error.faults:
                warn_once(log, f"plug-in {plugin}: {fault}")
    return MappingProxyType(found)


def _read(path: Path) -> Experiment:
    methods = catalogue("methods").entries
    text, content = read_content(path, methods, _paper())
    own: dict[str, Any] = {}
    for label, values in content["rows"].items():
        if values["method"] == EVERY_METHOD:
            own |= {name: values | {"method": name} for name in methods}
        else:
            own[label] = values
    present = {tuple(map(repr, values.items())): label for label, values in own.items()}
    labels = {control: present.get(tuple(map(repr, values.items()))) for control, values in CONTROLS.items()}
    controls = {label: values for label, values in CONTROLS.items() if labels[label] is None}
    rows = own | controls
    reference = str(content.get("reference", labels["no_adapt"] or "no_adapt"))
    faults = [f"rows.{label} is the name of a control: choose another" for label in controls if label in own]
    if reference not in rows:
        faults.append(f"reference={reference} is no row: {nearest(reference, rows)}")
    if faults:
        raise UserError([f"{path}: {fault}" for fault in faults])
    return Experiment(
        name=path.stem,
        description=heading(text),
        rows=MappingProxyType(rows),
        controls=tuple(controls),
        sweep=MappingProxyType(content["sweep"]),
        paper=MappingProxyType(_paper().get(str(content.get("paper")), {})),
        reference=reference,
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
