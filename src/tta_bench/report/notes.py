"""What has to be known to read the numbers of a table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from tta_bench.report.cells import STATES, distinct_cells
from tta_bench.report.model import Comparison, Table
from tta_bench.report.text import DASH, INCOMPLETE, number
from tta_bench.runtime.paths import CONFIG_DIR
from tta_bench.schema import DataConfig


def notes(table: Table) -> list[str]:
    """What has to be known to read the numbers, one or two sentences each."""
    images = {name: max(row.results[name].n for row in table.rows) for name in table.sources}
    counts = ", ".join(f"{name} {n or DASH}" for name, n in images.items())
    lines = [
        f"{table.metric.in_unit}: mean over images, then classes ({', '.join(table.classes)}), then target domains"
        + (f"; {table.average_name}: unweighted mean over the sources." if len(table.sources) > 1 else "."),
        f"Images per source model: {counts}. Repeats: {len(table.seeds)}"
        + ("; ± is the sample standard deviation over them." if len(table.seeds) > 1 else "."),
    ]
    if any(row.result(name).missing and row.result(name).value for row in table.rows for name in table.columns):
        lines.append(f"{INCOMPLETE}: some repeats are missing.")
    for against, comparisons in _comparisons(table).items():
        lines += _comparison_notes(against, comparisons, table)
    skipped = [f"{row.label} {row.skipped_updates}" for row in table.rows if row.skipped_updates]
    if skipped:
        lines.append(f"Updates skipped because a loss or gradient was not finite: {', '.join(skipped)}.")
    if table.missing:
        lines.append(missing_note(table))
    if table.has_paper and not comparable_with_paper(table):
        lines.append(
            "The paper's numbers are of other images or settings, its own network and protocol on five whole sets of "
            "fundus photographs: only the order of the rows can be compared."
        )
    settings = ", ".join(f"{key} {_values(value)}" for key, value in table.protocol.items() if key != "name")
    limit = table.data["limit"]
    images_used = f"images of {table.data['image_size']} pixels" + (
        f", the first {limit} of each domain" if limit else ""
    )
    lines.append(f"Protocol {table.protocol_hash}: {settings}, {images_used}.")
    if table.source_models:
        lines += [source_models_note(table), *branch_notes(table)]
    return lines


def source_models_note(table: Table) -> str:
    """In-domain Dice of every source model, and what auxiliary branches cost it where that is known."""
    several = len({model.training_seed for model in table.source_models}) > 1
    parts = []
    for model in table.source_models:
        name = f"{model.source}, training seed {model.training_seed}" if several else model.source
        cost = "" if model.branch_cost is None else f" (branches cost {number(model.branch_cost, form='+')})"
        parts.append(f"{name} {number(model.dice_in_domain)}{cost}")
    return f"In-domain Dice of the source models on held-out images: {'; '.join(parts)}."


def branch_notes(table: Table) -> list[str]:
    """Of which source models it is not known what their branches cost, and how to know; no line if it is of all."""
    sources = ", ".join(dict.fromkeys(model.source for model in table.source_models if model.lacks_twin))
    if not sources:
        return []
    return [
        f"What the branches of {sources} cost is not known: run +method=no_adapt with model.branches=[] and the same "
        "settings otherwise, which trains the source models without them."
    ]


def comparable_with_paper(table: Table) -> bool:
    """Whether images, targets, network and protocol are the paper's; else its numbers show the order of rows alone.

    How the source models were trained is left open: that is what a difference to the paper may be due to.
    """
    data = DataConfig.model_validate(_defaults("data/fundus", "defaults") | {"root": "."}).model_dump(mode="json")
    unlike = {key for key in {*data, *table.data} - {"root", "seed"} if table.data.get(key) != data.get(key)}
    domains = {*data["domains"]}
    return (
        not unlike  # the seed is that of generated images
        and _has(table.protocol, _defaults("protocol/online", "name"))
        and all({*targets} == domains - {source} for source, targets in table.targets.items())
        and all(planned.cell.config.model.name == "resunet34" for planned in table.plan.cells)
    )


@cache
def _defaults(path: str, *without: str) -> dict[str, Any]:
    """What a file of ``conf/`` sets, without keys that change no number; the shipped ones are the paper's settings."""
    content = yaml.safe_load((CONFIG_DIR / f"{path}.yaml").read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key not in without}


def _has(section: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    return all(section[key] == value for key, value in expected.items())


def planned_cells(table: Table) -> int:
    """How many cells a table needs; one that stands for several seeds of a row counts once."""
    return len(distinct_cells(table.plan))


def missing_note(table: Table) -> str:
    """How many cells of which rows have no results, and why."""
    rows = {row.label: [one for one in table.missing if one.row == row.label] for row in table.rows}
    parts = []
    for label, cells in rows.items():
        states = {state: sum(one.status == state for one in cells) for state in STATES}
        text = ", ".join(f"{count} {state}" for state, count in states.items() if count)
        parts += [f"{label} ({text})"] if cells else []
    note = f"{len(table.missing)} of {planned_cells(table)} cells have no results yet: {'; '.join(parts)}."
    stale = any(one.status == "stale" for one in table.missing)
    return note + (" Stale ones were computed by other code and do not count: run them again." if stale else "")


def _comparisons(table: Table) -> dict[str, dict[str, Comparison]]:
    """Row compared with -> row -> comparison."""
    found: dict[str, dict[str, Comparison]] = {}
    for row in table.rows:
        for comparison in (row.vs_reference, row.vs_bn_only):
            if comparison is not None:
                found.setdefault(comparison.against, {})[row.label] = comparison
    return found


def _comparison_notes(against: str, comparisons: dict[str, Comparison], table: Table) -> list[str]:
    usual = max(comparisons.values(), key=lambda comparison: comparison.n)
    of_sources = f" of the sources {', '.join(usual.sources)}" if len(usual.sources) < len(table.sources) else ""
    mean = ", each with its mean over the source models" if len(usual.sources) > 1 else ""
    lines = [
        f"Minus {against}: paired on the same {usual.n} images{of_sources}{mean}, 95 % bootstrap interval; p: Wilcoxon "
        f"signed-rank test, Holm-corrected for {len(comparisons)} row{'s' if len(comparisons) > 1 else ''}."
    ]
    for label, comparison in comparisons.items():
        parts = []
        if comparison.n != usual.n:
            parts.append(f"{comparison.n} images")
        if comparison.sources != usual.sources:
            parts.append(f"sources {', '.join(comparison.sources)} alone")
        if comparison.excluded:
            parts.append(f"{comparison.excluded} excluded because a value is missing or not finite")
        lines += [f"{label} minus {against}: {', '.join(parts)}."] if parts else []
    return lines


def _values(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
