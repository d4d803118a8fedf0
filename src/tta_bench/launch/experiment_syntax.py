"""What may stand in the file of an experiment; all else is refused in sentences that name file, key and remedy."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from tta_bench.errors import UserError, nearest
from tta_bench.runtime.yaml_files import read_yaml

KEYS = {"rows", "sweep", "paper", "reference"}

EXAMPLE = "for example rows: {tent: {method: tent}}"

_NAME = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


# That of libyaml is ten times faster, where PyYAML was built with it.
_BASE: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def read_content(path: Path, methods: Collection[str], papers: Collection[str]) -> tuple[str, dict[str, Any]]:
    """The text of an experiment's file, and its content with ``sweep`` as text in Hydra's grammar.

    Args:
        path: the file.
        methods: names that a row may choose.
        papers: tables of which the paper's numbers are known.

    Raises:
        UserError: every fault that can be told without the configuration.
    """
    text, content = read_yaml(path, "give the YAML file of an experiment")
    # As text: a name such as 1_1 would be read as a number.
    texts = yaml.load(text, Loader=_BASE)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no experiment: give it rows, {EXAMPLE}")
    faults = []
    if not _NAME.fullmatch(path.stem):
        faults.append(
            f"'{path.stem}' is no name of an experiment: rename the file, with letters, digits, _ and - alone"
        )
    faults += [f"unknown key '{key}': {nearest(str(key), KEYS)}" for key in content if key not in KEYS]
    faults += _rows_faults(content.get("rows"), methods)
    sweep, more = _sweep_of(texts.get("sweep") or {})
    paper = content.get("paper")
    if paper is not None and str(paper) not in papers:
        faults.append(f"paper={paper}: {nearest(str(paper), papers)}, the tables of paper.csv, or leave it out")
    if faults or more:
        raise UserError([f"{path}: {fault}" for fault in (*faults, *more)])
    return text, {**content, "sweep": sweep}


def _rows_faults(rows: Any, methods: Collection[str]) -> list[str]:
    if not isinstance(rows, Mapping) or not rows:
        return [f"'rows' is missing or empty: list the rows of the table, {EXAMPLE}"]
    faults = []
    for label, values in rows.items():
        where = f"rows.{label}"
        if not isinstance(label, str) or not label.strip():
            remedy = "give it one" if isinstance(label, str) else f"put it in quotation marks, '{label}'"
            faults.append(f"{where}: a label is text: {remedy}")
        if not isinstance(values, Mapping) or "method" not in values:
            faults.append(f"{where} has no method: write {{method: NAME}}, {nearest('', methods)}")
        elif not isinstance(values["method"], str) or values["method"] not in {*methods, "*"}:
            hint = nearest(str(values["method"]), methods)
            faults.append(f"{where}: unknown method '{values['method']}': {hint}")
        keys = values if isinstance(values, Mapping) else ()
        faults += [f"{where}: '{key}' is no key: write KEY: VALUE" for key in keys if not isinstance(key, str)]
    return faults


def _sweep_of(sweep: Any) -> tuple[dict[str, str], list[str]]:
    """Swept keys -> their values in Hydra's grammar, and what cannot be read so; a YAML list is a list of values."""
    example = "for example sweep: {data.seed: '0,1,2'}"
    if not isinstance(sweep, Mapping):
        return {}, [f"'sweep' lists no keys: write KEY: VALUE,VALUE, {example}"]
    found, faults = {}, []
    for key, value in sweep.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str) and each for each in values) or not values:
            faults.append(f"sweep.{key} has no values: separate them with commas, {example}")
        else:
            found[str(key)] = ",".join(values)
    return found, faults
