r"""A table as LaTeX that needs ``\usepackage{booktabs,longtable}`` alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from tta_bench.report.columns import Column, column_groups
from tta_bench.report.model import Table
from tta_bench.report.notes import notes
from tta_bench.report.text import DASH
from tta_bench.runtime.names import normal, shown

FILE = "table.tex"

_BEGIN = r"""\begingroup\scriptsize\setlength{\tabcolsep}{2pt}\setlength{\LTcapwidth}{\linewidth}
\setlength{\LTleft}{-40mm plus 1fill}\setlength{\LTright}{-40mm plus 1fill}% into both margins alike"""


def write(table: Table) -> str:
    """A ``longtable`` per group of columns, which LaTeX breaks into pages, and the notes below the last."""
    labels = [latex_text(row.label) for row in table.rows]
    controls = [row.control for row in table.rows]
    caption, label = latex_text(table.description), re.sub(r"[^A-Za-z0-9]+", "-", table.name)
    groups = column_groups(table)
    tables = [
        _longtable(
            f"{caption} Part {part} of {len(groups)}: {latex_text(name)}.",
            label if part == 1 else f"{label}-{name}",
            _lines(labels, controls, columns),
            len(columns),
        )
        for part, (name, columns) in enumerate(groups.items(), 1)
    ]
    below = [rf"\noindent {latex_text(note)}\par" for note in notes(table)]
    return "\n".join([_BEGIN, *tables, *below, r"\endgroup", ""])


def _longtable(caption: str, label: str, lines: Sequence[str], columns: int) -> str:
    """A long label takes several lines; the head stands on every page."""
    head, *body = lines
    return "\n".join(
        [
            rf"\begin{{longtable}}{{p{{36mm}}{'r' * columns}}}",
            rf"\caption{{{caption}}}\label{{tab:{label}}}\\",
            rf"\toprule {head} \midrule\endfirsthead",
            rf"\toprule {head} \midrule\endhead",
            r"\bottomrule\endfoot",
            *body,
            r"\end{longtable}",
        ]
    )


def _lines(labels: Sequence[str], controls: Sequence[bool], columns: Sequence[Column]) -> list[str]:
    r"""Best ``\textbf``, second best ``\underline``; a rule before the rows that are there for comparison alone."""
    marks = ("{}", r"\textbf{{{}}}", r"\underline{{{}}}")
    lines = [f"row & {' & '.join(latex_text(column.heading) for column in columns)} \\\\"]
    for index, label in enumerate(labels):
        if index and controls[index] and not controls[index - 1]:
            lines.append(r"\midrule")
        cells = [marks[column.ranks[index]].format(latex_text(column.cells[index])) for column in columns]
        lines.append(f"\\raggedright {label} & {' & '.join(cells)} \\\\")
    return lines


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
