"""A table as Markdown, CSV and LaTeX, and the text that they share."""

from __future__ import annotations

import math
import re
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from tta_bench.launch.paths import CONFIG_DIR
from tta_bench.report.tables import STATES, Comparison, Row, SourceResult, Table, distinct_cells
from tta_bench.runtime.names import csv_file, normal, shown

DASH = "\N{EN DASH}"
"""In the place of a number that is not there."""

INCOMPLETE = "*"
"""Behind a mean over fewer seeds than planned."""


@dataclass(frozen=True)
class Column:
    """One column of text.

    Attributes:
        heading: unescaped.
        cells: one per row.
        ranks: 1 for the best, 2 for the second best, else 0; equal where the shown numbers are.
    """

    heading: str
    cells: tuple[str, ...]
    ranks: tuple[int, ...]


# Text


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A number, or a dash where there is none; ``sign`` is ``+`` for differences."""
    return DASH if value is None or not math.isfinite(value) else f"{value:{sign}.{digits}f}"


def p_value(p: float) -> str:
    """Three digits behind the point, or that it is smaller."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def dice(result: SourceResult) -> str:
    """Mean, standard deviation over several seeds, and a mark if seeds are missing."""
    text = number(result.dice)
    if result.dice is None:
        return text
    return text + ("" if result.std is None else f" ± {result.std:.2f}") + (INCOMPLETE if result.missing else "")


def difference(comparison: Comparison | None) -> str:
    """Mean and 95 % interval."""
    if comparison is None:
        return DASH
    interval = f" [{comparison.low:+.2f}, {comparison.high:+.2f}]" if math.isfinite(comparison.low) else ""
    return f"{comparison.mean:+.2f}{interval}"


def ranks(values: Sequence[float | None]) -> tuple[int, ...]:
    """1 for the largest, 2 for the second largest, at two digits; of a single value nothing is best."""
    shown = [None if value is None or not math.isfinite(value) else round(value, 2) for value in values]
    if sum(value is not None for value in shown) < 2:
        return (0,) * len(values)
    order = sorted({value for value in shown if value is not None}, reverse=True)
    return tuple(0 if value is None or value not in order[:2] else order.index(value) + 1 for value in shown)


def dice_columns(table: Table) -> list[Column]:
    """Per source and on average: measured, and the paper's number where it has one."""
    columns = []
    for name in table.columns:
        measured = [row.result(name) for row in table.rows]
        columns.append(Column(name, tuple(map(dice, measured)), ranks([result.dice for result in measured])))
        printed = [row.paper.get(name) for row in table.rows]
        if any(value is not None for value in printed):
            columns.append(Column("paper", tuple(map(number, printed)), ranks(printed)))
    return columns


def difference_columns(table: Table) -> list[Column]:
    """Differences with p-values, and the distance to the paper."""

    def p_holm(comparison: Comparison | None) -> str:
        return DASH if comparison is None else p_value(comparison.p_holm)

    columns = [
        _column(f"minus {table.reference} [95 %]", table, lambda row: difference(row.vs_reference)),
        _column("p (Holm)", table, lambda row: p_holm(row.vs_reference)),
        _column("minus bn_only [95 %]", table, lambda row: difference(row.vs_bn_only)),
        _column("p (Holm)", table, lambda row: p_holm(row.vs_bn_only)),
    ]
    if comparable_with_paper(table):
        last = table.columns[-1]
        columns.append(_column("minus paper", table, lambda row: number(row.minus_paper.get(last), sign="+")))
    return columns


def cost_columns(table: Table) -> list[Column]:
    """Time, memory and passes."""
    return [
        _column("ms per image", table, lambda row: number(row.costs.ms_per_image, 1)),
        _column("peak MB", table, lambda row: number(row.costs.peak_memory_mb, 0)),
        _column("forwards", table, lambda row: number(row.costs.forwards_per_image, 1)),
        _column("backwards", table, lambda row: number(row.costs.backwards_per_image, 1)),
    ]


def column_groups(table: Table) -> dict[str, list[Column]]:
    """Dice, differences and costs, each narrow enough for a page; without columns and groups that say nothing."""
    groups = {"Dice": dice_columns(table)}
    for name, columns in (("differences", difference_columns(table)), ("costs", cost_columns(table))):
        groups[name] = [column for column in columns if any(cell != DASH for cell in column.cells)]
    return {name: group for name, group in groups.items() if group}


def _column(heading: str, table: Table, text: Callable[[Row], str]) -> Column:
    return Column(heading, tuple(text(row) for row in table.rows), (0,) * len(table.rows))


def notes(table: Table) -> list[str]:
    """What has to be known to read the numbers, one or two sentences each."""
    images = {name: max(row.results[name].n for row in table.rows) for name in table.sources}
    counts = ", ".join(f"{name} {n or DASH}" for name, n in images.items())
    lines = [
        f"Dice in percent: mean over images, then classes ({', '.join(table.classes)}), then target domains"
        + (f"; {table.average_name}: unweighted mean over the sources." if len(table.sources) > 1 else "."),
        f"Images per source model: {counts}. Repeats: {len(table.seeds)}"
        + ("; ± is the sample standard deviation over them." if len(table.seeds) > 1 else "."),
    ]
    if any(row.result(name).missing and row.result(name).dice for row in table.rows for name in table.columns):
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
        cost = "" if model.branch_cost is None else f" (branches cost {number(model.branch_cost, sign='+')})"
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
    data = _defaults("data/fundus", "defaults", "root", "seed")  # the seed is that of generated images
    domains = {*data["domains"]}
    return (
        _has(table.data, data)
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


# Markdown


def markdown(table: Table) -> str:
    """Pipe tables, best bold and second best underlined, and the notes."""
    labels = [_markdown_text(row.label) for row in table.rows]
    lines = [f"# {_markdown_text(table.name)}", "", _markdown_text(table.description), ""]
    for columns in column_groups(table).values():
        lines += [*_pipe_table(labels, columns), ""]
    lines += [f"- {_markdown_text(note)}" for note in notes(table)]
    return "\n".join(lines) + "\n"


def _pipe_table(labels: Sequence[str], columns: Sequence[Column]) -> list[str]:
    marks = ("{}", "**{}**", "<u>{}</u>")
    lines = [
        f"| row | {' | '.join(_markdown_text(column.heading) for column in columns)} |",
        f"| --- |{' ---: |' * len(columns)}",
    ]
    for number_of_row, label in enumerate(labels):
        cells = [
            marks[column.ranks[number_of_row]].format(_markdown_text(column.cells[number_of_row])) for column in columns
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def _markdown_text(text: str) -> str:
    """Text that Markdown shows as it is; an underscore inside a word is no emphasis."""
    marks = re.sub(r"([\\`*|<\[\]~#&$]|(?<!\w)_|_(?!\w))", r"\\\1", shown(text))
    return re.sub(r"^(\d*)(>|[-+.)](?= ))", r"\1\\\2", marks)  # no list and no quotation


# CSV


def csv_text(table: Table) -> str:
    """One line per row and source and one for the average, with all digits.

    Differences, costs and counts of the whole row are on the line of the average.
    """
    lines = [_csv_line(table, row, name) for row in table.rows for name in (*table.sources, table.average_name)]
    return csv_file(list(dict.fromkeys(key for line in lines for key in line)), lines)


def _csv_line(table: Table, row: Row, name: str) -> dict[str, Any]:
    result = row.result(name)
    line: dict[str, Any] = {
        "table": table.name,
        "row": row.label,
        "method": row.method,
        "source": name,
        "dice": result.dice,
        "std": result.std,
        "n": result.n,
        "seeds": len(result.seeds),
        "missing_seeds": len(result.missing),
        **{f"dice_{label}": result.classes.get(label) for label in table.classes},
        "paper": row.paper.get(name),
        "minus_paper": row.minus_paper.get(name),
    }
    if name == table.average_name:
        for prefix, comparison in (("reference", row.vs_reference), ("bn_only", row.vs_bn_only)):
            for key in ("against", "mean", "low", "high", "p", "p_holm", "n", "excluded"):
                line[f"vs_{prefix}_{key}"] = None if comparison is None else getattr(comparison, key)
        line |= vars(row.costs) | {"skipped_updates": row.skipped_updates}
    return line | {"protocol_hash": table.protocol_hash}


# LaTeX


_PAGE_LINES = 62
"""Of ``\\scriptsize``, as fit on a page of the class ``article`` below a caption."""

_LABEL_CHARACTERS = 30
"""In one line: with a longer one beside the paper's numbers, a table would be wider than the paper."""


def latex(table: Table) -> str:
    r"""Tabulars and notes that need ``\usepackage{booktabs}`` alone.

    One ``table`` environment where they fit on a page, else one per group of columns, the notes in the last.
    """
    labels = [_latex_label(row.label) for row in table.rows]
    controls = [row.control for row in table.rows]
    groups = {name: _tabular(labels, controls, columns) for name, columns in column_groups(table).items()}
    texts = notes(table)
    below = "\n".join(
        [r"\begin{minipage}{\linewidth}", *(rf"{latex_text(note)}\par" for note in texts), r"\end{minipage}"]
    )
    # Rules and gaps are as high as three lines, and a line holds about a hundred characters.
    height = sum(tabular.count(r"\\") + 3 for tabular in groups.values()) + sum(1 + len(text) // 100 for text in texts)
    caption, label = latex_text(table.description), re.sub(r"[^A-Za-z0-9]+", "-", table.name)
    if height <= _PAGE_LINES:
        return _float(caption, label, [*groups.values(), below])
    blocks = [[tabular] for tabular in groups.values()]
    blocks[-1].append(below)
    return "\n".join(
        _float(f"{caption} Part {part} of {len(groups)}: {name}.", label if part == 1 else f"{label}-{name}", content)
        for part, (name, content) in enumerate(zip(groups, blocks, strict=True), 1)
    )


def _float(caption: str, label: str, blocks: Sequence[str]) -> str:
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\scriptsize\setlength{\tabcolsep}{2pt}\setlength{\belowcaptionskip}{4pt}",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{label}}}",
            "\n\\par\\medskip\n".join(blocks),
            r"\end{table}",
            "",
        ]
    )


def _latex_label(label: str) -> str:
    """Broken into lines where it is long; braces, because a bracket would be an option of the line break before it."""
    lines = textwrap.wrap(label, _LABEL_CHARACTERS, break_long_words=False, break_on_hyphens=False)
    text = r"\\".join(f"{{{latex_text(line)}}}" for line in lines)
    return text if len(lines) == 1 else rf"\begin{{tabular}}[t]{{@{{}}l@{{}}}}{text}\end{{tabular}}"


def _tabular(labels: Sequence[str], controls: Sequence[bool], columns: Sequence[Column]) -> str:
    r"""Best ``\textbf``, second best ``\underline``; a rule before the rows that are there for comparison alone."""
    marks = ("{}", r"\textbf{{{}}}", r"\underline{{{}}}")
    lines = [
        r"\makebox[\linewidth]{% what is wider than the text reaches into both margins alike",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        f"row & {' & '.join(latex_text(column.heading) for column in columns)} \\\\",
        r"\midrule",
    ]
    for index, label in enumerate(labels):
        if index and controls[index] and not controls[index - 1]:
            lines.append(r"\midrule")
        cells = [marks[column.ranks[index]].format(latex_text(column.cells[index])) for column in columns]
        lines.append(f"{label} & {' & '.join(cells)} \\\\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}"])


_NOTHING = "\N{ZERO WIDTH NON-JOINER}"

_LATEX = {
    _NOTHING: "{}",
    **{mark: rf"\{mark}" for mark in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "|": r"\ensuremath{|}",
    "±": r"\ensuremath{\pm}",
    "\N{MULTIPLICATION SIGN}": r"\ensuremath{\times}",
    DASH: "--",
    "—": "---",
    "…": r"\ldots{}",
    "\N{MINUS SIGN}": r"\ensuremath{-}",
    "→": r"\ensuremath{\rightarrow}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "\n": " ",
}


_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi"


def latex_text(text: str) -> str:
    """Text that LaTeX shows as it is, of Latin and small Greek letters; the code point in the place of others."""
    marks = re.sub("-(?=-)", f"-{_NOTHING}", normal(shown(text)))  # two in a row would be set as a dash
    return "".join(_LATEX.get(mark) or _latex_letter(mark) for mark in marks)


def _latex_letter(mark: str) -> str:
    if ord(mark) < 128:
        return mark if mark.isprintable() else " "
    name = unicodedata.name(mark, "").lower()
    greek = name.removeprefix("greek small letter ").replace("lamda", "lambda")  # Unicode's spelling
    if greek != name and greek in (*_GREEK.split(), "omega"):
        return rf"\ensuremath{{\{greek}}}"
    accents = ("with grave", "with acute", "with circumflex", "with tilde", "with diaeresis", "with caron")
    plain = name.startswith("latin ") and name.endswith(accents)
    return mark if plain or mark in "ßæøåÆØÅçÇłŁ" else f"U+{ord(mark):04X}"
