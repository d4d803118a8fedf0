"""What the rows and the sweep of an experiment set, against the methods and the schema of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from tta_bench.errors import nearest, nearest_key
from tta_bench.launch.experiment_files import Experiment, read_experiments
from tta_bench.launch.overrides import is_finite, sweep_values
from tta_bench.launch.unused import unused_keys
from tta_bench.methods.base import METHODS
from tta_bench.offline.base import SYSTEMS
from tta_bench.runtime.sections import keys_of
from tta_bench.schema import RunConfig

OF_THE_TABLE = ("seed", "results_root", "force", "group", "logger", "launch", "tune")
"""Keys in which the rows of a table cannot differ: their cells would be no repeats of each other, or lie elsewhere."""


def experiment_faults(experiments: Sequence[Override]) -> list[str]:
    """A sentence for every key in the rows of the chosen experiments that a run does not have.

    Their values, and the keys of the sweep, are checked as those of a command line.
    """
    return [f"{experiment.word}: {fault}" for experiment in _chosen(experiments) for fault in _row_faults(experiment)]


def with_files(
    faults: Sequence[str], experiments: Sequence[Override], typed: Sequence[Override], config_dir: str | None
) -> list[str]:
    """The faults, those that a user's file has brought with its path.

    Args:
        faults: of a command line.
        experiments: that it chooses.
        typed: all that it sets itself.
        config_dir: folder of more files that its groups may choose.
    """
    own = {override.key_or_group for override in typed}
    files = {
        key: experiment.path
        for experiment in _chosen(experiments)
        for key in (*experiment.sweep, *(key for row in experiment.rows.values() for key in row))
        if experiment.path is not None and key not in own
    }
    chosen = {} if config_dir is None else _keys_of_files(typed, Path(config_dir))
    files |= {key: path for key, path in chosen.items() if key not in own}
    paths = [next((path for key, path in files.items() if key in fault), None) for fault in faults]
    return [fault if path is None else f"{path}: {fault}" for path, fault in zip(paths, faults, strict=True)]


def _keys_of_files(typed: Sequence[Override], folder: Path) -> dict[str, str]:
    """The keys that a user's own choices of groups bring, each with its file."""
    keys: dict[str, str] = {}
    for override in filter(is_finite, typed):
        group = override.key_or_group
        for path in (folder / group / f"{value}.yaml" for value in sweep_values(override)):
            if os.path.isfile(path) and isinstance(content := OmegaConf.load(path), DictConfig):
                keys |= {f"{group}.{key}": str(path) for key in map(str, content)}
    return keys


def table_faults(experiments: Sequence[Override], jobs: Sequence[tuple[str | None, RunConfig]]) -> list[str]:
    """What no report would put into one table, of the jobs of the chosen experiments: choice of the row, and run."""
    labels = {choice: label for experiment in _chosen(experiments) for choice, label in experiment.choices().items()}
    rows = [(labels[row], config) for row, config in jobs if row in labels]
    return tested_on_faults(rows) if rows else []


def unused_in_rows(experiments: Sequence[Override], jobs: Sequence[tuple[str | None, RunConfig]]) -> list[str]:
    """A sentence for every key of a row that none of its runs looks at; jobs as for :func:`table_faults`."""
    faults = []
    for experiment in _chosen(experiments):
        for choice, label in experiment.choices().items():
            words = [(key, f"rows.{label}: '{key}'") for key in experiment.rows[label]]
            faults += unused_keys(words, [config for row, config in jobs if row == choice])
    return faults


def tested_on_faults(rows: Sequence[tuple[str, RunConfig]]) -> list[str]:
    """A sentence for every row of a table that is tested on other images than its first one, which is never a choice.

    Args:
        rows: label and run, with its targets; at least one.
    """
    first, expected = rows[0]
    faults = []
    targets: dict[str, tuple[str, RunConfig]] = {}
    for label, config in rows:
        own, others = (each.protocol.evaluation or "all" for each in (config, expected))
        if own != others:
            faults.append(
                f"row '{label}' has protocol.evaluation={own}, but row '{first}' has protocol.evaluation={others}: "
                "give protocol.evaluation one value for all rows, under sweep or on the command line; their numbers "
                "cannot be compared"
            )
        other, before = targets.setdefault(config.source, (label, config))
        if config.target != before.target:
            faults.append(
                f"row '{label}', source {config.source} has target={','.join(config.target or ())}, but row '{other}' "
                f"has target={','.join(before.target or ())}: give target one value"
            )
    return list(dict.fromkeys(faults))


def _chosen(experiments: Sequence[Override]) -> list[Experiment]:
    known = read_experiments()
    return [known[name] for override in experiments for name in sweep_values(override) if name in known]


def _row_faults(experiment: Experiment) -> Iterator[str]:
    for label, values in experiment.rows.items():
        kind = METHODS.get(values["method"])
        options = ["preset", *(field.name for field in fields(kind.Options))]
        for key in values:
            group, *inner = key.split(".")
            if group == "method" and inner and inner[0] not in options:
                yield f"rows.{label}: unknown key '{key}': {nearest_key(f'method.{inner[0]}', options)}"
            elif key == "adapt":
                if values[key] not in SYSTEMS.names():
                    yield f"rows.{label}: unknown adapt={values[key]}: {SYSTEMS.nearest(str(values[key]))}"
            elif group == "adapt":
                continue  # checked with the choice of the row
            elif group in OF_THE_TABLE:
                yield f"rows.{label}: '{key}' is of the whole table: give it on the command line"
            elif group != "method":
                yield from (f"rows.{label}: {fault}" for fault in _key_faults(key))


def _key_faults(key: str) -> Iterator[str]:
    """Why a dotted key is none of a run's; below a mapping of the user's own, such as ``data.classes``, any is."""
    parts, valid_keys = key.split("."), keys_of(RunConfig)
    for depth, part in enumerate(parts):
        if not (valid := valid_keys(parts[:depth])):
            return
        if part not in valid:
            name = ".".join(parts[: depth + 1])
            yield f"unknown key '{key}': {nearest_key(name, valid) if depth else nearest(name, valid)}"
            return
    if inner := valid_keys(parts):
        yield f"'{key}' is a group: set its keys, such as {key}.{inner[0]}, or choose several under sweep"
