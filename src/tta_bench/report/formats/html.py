"""The report as one HTML page: no network, no script needed, light and dark, narrow and wide."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tta_bench.adaptation.scenarios.base import scenario_of
from tta_bench.metrics.base import PRIMARY, Metric
from tta_bench.report import text
from tta_bench.report.checks import comparable_with_paper
from tta_bench.report.drawings import draw
from tta_bench.report.model import BN_ONLY, Table
from tta_bench.report.notes import (
    audit_notes,
    branch_notes,
    examination_notes,
    headline,
    planned_cells,
    spread_told,
    stage_notes,
)
from tta_bench.report.warnings import warnings

FILE = "index.html"

MINUS = "\N{MINUS SIGN}"


def write(table: Table) -> str:
    """The content of an HTML file; all that it needs is inside. What is not drawn yet is drawn now."""
    drawn = table.drawings or draw(table)
    environment = Environment(
        loader=PackageLoader("tta_bench.report.formats"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "p_value": p_value}
    return environment.get_template("report.html").render(
        table=table,
        bn_only=BN_ONLY,
        nothing=text.DASH,
        best=best_rows(table),
        figures=drawn.figures,
        panels=drawn.panels,
        panels_webp=drawn.panels and base64.b64encode(drawn.panels.webp()).decode(),
        panels_fault=drawn.panels_fault,
        protocol=protocol_sentences(table.protocol, table.data, table.metric, table.stages),
        commands=commands(table),
        with_bn_only=any(row.vs_bn_only for row in table.rows),
        planned=planned_cells(table),
        headline=headline(table),
        spread=spread_told(table),
        reading=text.reading(table.metric),
        transfer=text.transfer_groups(table),
        stage_notes=stage_notes(table),
        audit=text.audit_groups(table),
        audit_notes=audit_notes(table),
        breakdown=text.breakdown_groups(table),
        warnings=warnings(table),
        branch_notes=[*examination_notes(table), *branch_notes(table)],
        comparable=comparable_with_paper(table),
    )


def best_rows(table: Table) -> dict[str, set[str]]:
    """Column -> labels of the rows with the best value there, ties included."""
    best = {}
    for column in table.columns:
        values = {row.label: row.result(column).value for row in table.rows}
        order = text.ranks(list(values.values()), table.metric)
        best[column] = {label for label, rank in zip(values, order, strict=True) if rank == 1}
    return best


_EXCLUSIVE = "Classes exclude each other: each pixel belongs to the most probable of them, or to the background."


_EMPTY = {
    "one": "A class that neither the prediction nor the truth of an image has counts as predicted perfectly.",
    "skip": "A class that neither the prediction nor the truth of an image has is left out of the means.",
}


def protocol_sentences(
    protocol: Mapping[str, Any], data: Mapping[str, Any], metric: Metric, stages: Sequence[str] = ()
) -> list[str]:
    """The protocol in words; of a value that rows vary, all that occur.

    Args:
        protocol: the section of the configuration; tuples where rows differ on purpose.
        data: the section of the images, likewise.
        metric: of the table.
        stages: of the table.
    """

    def alternatives(values: Any) -> str:
        return text.joined(values, " or ")

    def each(values: Any, sentence: Callable[[Any], str]) -> str:
        return f"Rows differ: {' / '.join(map(sentence, values))}" if isinstance(values, tuple) else sentence(values)

    classes = data["classes"]
    threshold = f"A probability counts as the class from {alternatives(protocol['threshold'])}."
    images = f"Images: {alternatives(data['name'])}, {alternatives(data['image_size'])} pixels square"
    limit = "" if data["limit"] is None else f", the first {alternatives(data['limit'])} of each domain"
    names = f"; classes: {', '.join(classes)}." if isinstance(classes, Mapping) else "; classes differ between rows."
    return [
        f"{images}{limit}{names}",
        each(protocol["reset"], lambda value: scenario_of(value).sentence),
        each(protocol["steps"], lambda value: f"{value} update{'s' * (value != 1)} per image, one image at a time."),
        each(protocol["predict"], lambda value: f"An image is predicted {value} the update that it causes."),
        each(protocol["order"], lambda value: f"Images come in {f'random order {value}' if value else 'file order'}."),
        each(data.get("exclusive", False), lambda exclusive: _EXCLUSIVE if exclusive else threshold),
        text.scored(protocol, data),
        each(protocol.get("empty", "one"), _EMPTY.__getitem__),
        f"{metric.in_unit}: mean over the images of a target, {'then over classes, ' * metric.per_class}then over "
        f"targets{'' if stages else '; the average is the unweighted mean over the sources'}.{text.reading(metric)}",
    ]


def commands(table: Table) -> list[str]:
    """What to type to compute and to report the table again."""
    overrides, word = table.plan.overrides, table.plan.experiment.word
    metric = [] if table.metric.name == PRIMARY else ["--metric", table.metric.name]
    reference = [] if table.reference == table.plan.experiment.reference else ["--reference", table.reference]
    return [
        shlex.join(["python", "-m", "tta_bench", f"experiment={word}", *overrides]),
        shlex.join(["tta-bench", "report", word, *overrides, *reference, *metric]),
    ]


def number(value: float | None, digits: int = 2) -> str:
    """With a true minus sign and thousands set apart."""
    return text.number(value, digits, ",").replace("-", MINUS)


def signed(value: float, digits: int = 2) -> str:
    """With its sign, which zero alone has not: an interval to -0.003 does not end at zero."""
    written = text.number(value, digits, "+").replace("-", MINUS)
    return written if value else written[1:]


def p_value(p: float) -> str:
    """With a space behind the sign."""
    return text.p_value(p).replace("<", "< ")
