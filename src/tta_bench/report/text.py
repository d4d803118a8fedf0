"""Numbers and columns of a table as text, the same in every format."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tta_bench.metrics.base import Metric
from tta_bench.report.breakdown import breakdown
from tta_bench.report.checks import comparable_with_paper
from tta_bench.report.model import BN_ONLY, Comparison, Row, SourceResult, Table
from tta_bench.report.statistics import Estimate
from tta_bench.report.transfer import transfers

DASH = "\N{EN DASH}"
"""In the place of a number that is not there."""

INCOMPLETE = "*"
"""Behind a mean over fewer seeds than planned."""


def number(value: float | None, digits: int = 2, form: str = "") -> str:
    """A number, or a dash where there is none; ``form`` is ``+`` for differences, ``,`` to group thousands."""
    return DASH if value is None or not math.isfinite(value) else f"{value:{form}.{digits}f}"


def p_value(p: float) -> str:
    """Three digits behind the point, or that it is smaller; a dash for none."""
    return "<0.001" if p < 0.001 else number(p, 3)


def mean(result: SourceResult, digits: int = 2) -> str:
    """Mean, standard deviation over several seeds, and a mark if seeds are missing."""
    text = number(result.value, digits)
    if result.value is None:
        return text
    return (
        text
        + ("" if result.std is None else f" ± {number(result.std, digits)}")
        + (INCOMPLETE if result.missing else "")
    )


def narrow_mean(result: SourceResult, digits: int = 2) -> str:
    """Mean, and below it the standard deviation over several seeds."""
    return number(result.value, digits) + ("" if result.std is None else f"\n±{number(result.std, digits)}")


def difference(estimate: Comparison | Estimate | None, digits: int = 2) -> str:
    """Mean and, if there is one, its 95 % interval."""
    if estimate is None:
        return DASH
    mean, low, high = (number(value, digits, "+") for value in (estimate.mean, estimate.low, estimate.high))
    return mean + (f" [{low}, {high}]" if math.isfinite(estimate.low) else "")


def reading(metric: Metric) -> str:
    """How a difference of the metric is read, after a space; empty where more is better."""
    return {
        "higher": "",
        "lower": " Lower is better: a difference below 0 is a gain.",
        "none": " No value is better than another.",
    }[metric.direction]


def joined(values: Any, separator: str) -> str:
    """A setting as text; all its values where the rows of a table vary it."""
    return separator.join(map(str, values)) if isinstance(values, tuple) else str(values)


SCORED_AT = {"network": "at the size of the network's input", "stored": "at the size of the files"}
"""Values of ``protocol.score_at`` in words."""

FITS = {
    "stretch": "stretched to the network's square",
    "pad": "scaled into the network's square with their aspect ratio kept, the rest mirrored",
    "tile": "cut into overlapping squares of the network's size, all adapted to as one image",
}
"""Values of ``data.fit`` in words."""


def scored(protocol: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """How images come to the network and masks are compared, of sections of the configuration: a sentence."""

    def words(value: Any, meaning: Mapping[str, str]) -> str:
        return " or ".join(meaning[each] for each in (value if isinstance(value, tuple) else (value,)))

    at = words(protocol.get("score_at", "network"), SCORED_AT)
    return f"Images are {words(data.get('fit', 'stretch'), FITS)}; predictions are scored {at}."


WIDTH = 12
"""Columns of a breakdown side by side, which fit a page."""


class Column(NamedTuple):
    """One column of text: its heading, a cell per row, and ranks as of :func:`ranks`; nothing is escaped."""

    heading: str
    cells: tuple[str, ...]
    ranks: tuple[int, ...]


def ranks(values: Sequence[float | None], metric: Metric) -> tuple[int, ...]:
    """1 for the best, 2 for the second best, as they are shown, else 0; of a single value nothing is best."""
    shown = [None if value is None or not math.isfinite(value) else round(value, metric.digits) for value in values]
    if sum(value is not None for value in shown) < 2:
        return (0,) * len(values)
    order = metric.best(value for value in shown if value is not None)
    return tuple(0 if value is None or value not in order[:2] else order.index(value) + 1 for value in shown)


def options_columns(table: Table) -> list[Column]:
    """Where the options of each row are from; no column where no row's are official or tuned."""
    options = tuple(row.options for row in table.rows)
    return [Column("options", options, (0,) * len(options))] if table.has_presets else []


def setting_columns(table: Table) -> list[Column]:
    """What each row may see; no column where all see test images alone."""
    if not table.has_settings:
        return []
    told = {
        "setting": tuple(row.setting_told for row in table.rows),
        "may see": tuple(row.may_see or DASH for row in table.rows),
    }
    return [Column(heading, cells, (0,) * len(cells)) for heading, cells in told.items()]


def mean_columns(table: Table) -> list[Column]:
    """Per source and on average: measured, and the paper's number where it has one."""
    columns = []
    for name in table.columns:
        measured = [row.result(name) for row in table.rows]
        values = ranks([result.value for result in measured], table.metric)
        columns.append(Column(name, tuple(mean(each, table.metric.digits) for each in measured), values))
        printed = [row.paper.get(name) for row in table.rows]
        if any(value is not None for value in printed):
            columns.append(Column("paper", tuple(map(number, printed)), ranks(printed, table.metric)))
    return columns


def column_groups(table: Table) -> dict[str, list[Column]]:
    """Means, differences and costs, each narrow enough for a page; without columns and groups that say nothing."""

    def p_holm(comparison: Comparison | None) -> str:
        return DASH if comparison is None else p_value(comparison.p_holm)

    digits = table.metric.digits
    differences: list[tuple[str, Callable[[Row], str]]] = [
        (f"minus {table.reference} [95 %]", lambda row: difference(row.vs_reference, digits)),
        ("p (Holm)", lambda row: p_holm(row.vs_reference)),
        (f"minus {BN_ONLY} [95 %]", lambda row: difference(row.vs_bn_only, digits)),
        ("p (Holm)", lambda row: p_holm(row.vs_bn_only)),
    ]
    if comparable_with_paper(table):
        last = table.columns[-1]
        differences.append(("minus paper", lambda row: number(row.minus_paper.get(last), form="+")))
    costs: list[tuple[str, Callable[[Row], str]]] = [
        ("ms per image", lambda row: number(row.costs.ms_per_image, 1)),
        ("peak MB", lambda row: number(row.costs.peak_memory_mb, 0)),
        ("forwards", lambda row: number(row.costs.forwards_per_image, 1)),
        ("backwards", lambda row: number(row.costs.backwards_per_image, 1)),
    ]
    groups = {table.metric.heading: [*setting_columns(table), *options_columns(table), *mean_columns(table)]}
    retained: list[tuple[str, Callable[[Row], str]]] = (
        [("Dice on held-out source images", lambda row: number(row.retained))] if table.has_adapted else []
    )
    for name, texts in (("differences", differences), ("source retention", retained), ("costs", costs)):
        columns = [
            Column(heading, tuple(text(row) for row in table.rows), (0,) * len(table.rows)) for heading, text in texts
        ]
        groups[name] = [column for column in columns if {*column.cells} != {DASH}]
    return {name: group for name, group in groups.items() if group}


def breakdown_groups(table: Table) -> dict[str, list[Column]]:
    """Per class on average, then per source the targets by classes; as many targets side by side as fit a page."""
    several = len(table.classes) > 1
    parts = {(part.row, part.source, part.target): part for part in breakdown(table)}
    groups: dict[str, list[Column]] = {}
    digits = table.metric.digits

    def column(heading: str, values: Sequence[float | None]) -> Column:
        return Column(heading, tuple(number(value, digits) for value in values), ranks(values, table.metric))

    groups |= _split("over whole cases", _case_columns(table, column), WIDTH)
    if several:
        each = [column(name, [row.average.classes.get(name) for row in table.rows]) for name in table.classes]
        groups |= _split("classes", each, WIDTH)
    for source, targets in table.targets.items():
        columns = []
        for target in targets:
            found = [parts.get((row.label, source, target)) for row in table.rows]
            if several:
                columns += [
                    column(f"{target} {name}", [None if part is None else part.values[name] for part in found])
                    for name in table.classes
                ]
            means = [None if part is None else part.mean for part in found]
            columns.append(column(f"{target} mean" if several else target, means))
        per_target = len(table.classes) + 1 if several else 1
        name = f"targets after stage {source}" if table.stages else f"source {source}"
        groups |= _split(name, columns, max(WIDTH - WIDTH % per_target, WIDTH % per_target))
    return groups


def audit_groups(table: Table) -> dict[str, list[Column]]:
    """Per group of images, the worst and how far it lies behind; nothing where no audit is asked for."""
    if table.audit is None:
        return {}
    audit, digits = table.audit, table.metric.digits

    def column(heading: str, values: Sequence[float | None]) -> Column:
        return Column(heading, tuple(number(value, digits) for value in values), ranks(values, table.metric))

    def plain(heading: str, cells: Sequence[str]) -> Column:
        return Column(heading, tuple(cells), (0,) * len(cells))

    means = [
        column(f"{label} (n={count})", [row.means[label] for row in audit.rows])
        for label, count in audit.counts.items()
    ]
    ends = [
        plain("worst group", [row.worst or DASH for row in audit.rows]),
        plain("gap", [number(row.gap, digits) for row in audit.rows]),
        plain("gap minus " + table.reference + " [95 %]", [difference(row.widening, digits) for row in audit.rows]),
    ]
    return {**_split(f"by {audit.attribute}", means, WIDTH), f"gap by {audit.attribute}": ends}


def transfer_groups(table: Table) -> dict[str, list[Column]]:
    """What each row has forgotten and gained over the stages, and the metric of each domain after each of them."""
    found = [*transfers(table).values()]
    if not found:
        return {}

    def column(heading: str, values: Sequence[float | None], form: str = "") -> Column:
        cells = tuple(number(value, table.metric.digits, form) for value in values)
        return Column(heading, cells, ranks(values, table.metric))

    scores = [
        column("average", [row.average.value for row in table.rows]),
        column("BWT", [each and each.backward for each in found], "+"),
        column("FWT", [each and each.forward for each in found], "+"),
    ]
    models = tuple(DASH if each is None else f"{each.models:g}" for each in found)
    groups = {"over all stages": [*scores, Column("models", models, (0,) * len(found))]}
    for index, line in enumerate(table.stages):
        columns = [
            column(name, [each and float(each.matrix[index, at]) for each in found])
            for at, name in enumerate(table.stages)
        ]
        groups |= _split(f"after stage {line}", columns, WIDTH)
    return groups


def _case_columns(table: Table, column: Callable[[str, Sequence[float | None]], Column]) -> list[Column]:
    """The metric over whole volumes by source and on average; no column where a finished cell has it not."""
    found = {name: [case_mean(table, row, name) for row in table.rows] for name in table.columns}
    return [column(name, values) for name, values in found.items()]


def case_mean(table: Table, row: Row, name: str) -> float | None:
    """The metric over whole volumes of a row, for a source or on average; None where a cell has none of them."""
    sources = table.sources if name == table.average_name else (name,)
    key = f"case_{table.metric.name}"
    means = []
    for source in sources:
        cells = [each for each in table.finished if (each.row, each.cell.config.source) == (row.label, source)]
        values = [each.summary.get(key) for each in cells]
        if not values or None in values:
            return None
        means.append(sum(map(float, values)) / len(values))  # type: ignore[arg-type]
    return sum(means) / len(means)


def _split(name: str, columns: Sequence[Column], width: int) -> dict[str, list[Column]]:
    """Groups of so many columns; without those that say nothing."""
    told = [column for column in columns if {*column.cells} != {DASH}]
    pieces = [told[start : start + width] for start in range(0, len(told), width)]
    if len(pieces) < 2:
        return {name: told} if told else {}
    return {f"{name}, part {index} of {len(pieces)}": piece for index, piece in enumerate(pieces, 1)}


def grids(table: Table, escape: Callable[[str], str], best: str, second: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Name and lines of every group of columns, breakdowns last, headings first, in the words of a format.

    Args:
        table: to show.
        escape: what makes plain text text of the format.
        best: what the best value of a column is put into, at ``{}``.
        second: likewise the second best.
    """
    marks = ("{}", best, second)
    more = transfer_groups(table) | audit_groups(table) | breakdown_groups(table)
    for name, columns in (column_groups(table) | more).items():
        lines = [["row", *(escape(column.heading) for column in columns)]]
        for index, row in enumerate(table.rows):
            cells = [marks[column.ranks[index]].format(escape(column.cells[index])) for column in columns]
            lines.append([escape(row.label), *cells])
        yield name, lines
