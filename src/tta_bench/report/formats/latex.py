r"""A table as LaTeX that needs ``\usepackage{booktabs,longtable}`` alone."""

from __future__ import annotations

import re
import unicodedata

from tta_bench.report.model import Table
from tta_bench.report.notes import headline, notes
from tta_bench.report.text import DASH, grids
from tta_bench.report.warnings import warnings
from tta_bench.runtime.names import normal, shown

FILE = "table.tex"

_BEGIN = r"""\begingroup\scriptsize\setlength{\tabcolsep}{2pt}\setlength{\LTcapwidth}{\linewidth}
\setlength{\LTleft}{-40mm plus 1fill}\setlength{\LTright}{-40mm plus 1fill}% into both margins alike"""


def write(table: Table) -> str:
    """Warnings, a ``longtable`` per group of columns, which LaTeX breaks into pages, and the notes below the last.

    A long label takes several lines; the head stands on every page; a rule comes before the rows that are there for
    comparison alone.
    """
    controls = [row.control for row in table.rows]
    caption, label = (
        latex_text(f"{table.description} {headline(table)}".rstrip()),
        re.sub(r"[^A-Za-z0-9]+", "-", table.name),
    )
    groups = list(grids(table, latex_text, r"\textbf{{{}}}", r"\underline{{{}}}"))
    lines = [_BEGIN, *(rf"\noindent\textbf{{Warning:}} {latex_text(warning)}\par" for warning in warnings(table))]
    for part, (name, (head, *body)) in enumerate(groups, 1):
        own = name if name.isascii() and name.isalpha() else str(part)  # names of domains may be no label
        heading = rf"\toprule {' & '.join(head)} \\ \midrule"
        lines += [
            rf"\begin{{longtable}}{{p{{35mm}}{'r' * (len(head) - 1)}}}",
            rf"\caption{{{caption} Part {part} of {len(groups)}: {latex_text(name)}.}}"
            rf"\label{{tab:{label}{f'-{own}' if part > 1 else ''}}}\\",
            rf"{heading}\endfirsthead",
            rf"{heading}\endhead",
            r"\bottomrule\endfoot",
        ]
        for index, cells in enumerate(body):
            lines += [r"\midrule"] if index and controls[index] and not controls[index - 1] else []
            lines.append(rf"\raggedright {' & '.join(cells)} \\")
        lines.append(r"\end{longtable}")
    return "\n".join([*lines, *(rf"\noindent {latex_text(note)}\par" for note in notes(table)), r"\endgroup", ""])


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


def latex_text(text: str) -> str:
    """Text that LaTeX shows as it is, of Latin and small Greek letters; the code point in the place of others."""
    signs = re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", normal(shown(text)))
    marks = re.sub("-(?=-)", f"-{_NOTHING}", signs)  # two in a row would be set as a dash
    return "".join(_LATEX.get(mark) or _latex_letter(mark) for mark in marks)


def _latex_letter(mark: str) -> str:
    if ord(mark) < 128:
        return mark if mark.isprintable() else " "
    name = unicodedata.name(mark, "").lower()
    greek = name.removeprefix("greek small letter ").replace("lamda", "lambda")  # Unicode's spelling
    if 0x3B1 <= ord(mark) <= 0x3C9 and greek not in ("omicron", "final sigma"):  # of which LaTeX has none
        return rf"\ensuremath{{\{greek}}}"
    accents = ("with grave", "with acute", "with circumflex", "with tilde", "with diaeresis", "with caron")
    plain = name.startswith("latin ") and name.endswith(accents)
    return mark if plain or mark in "ßæøåÆØÅçÇłŁ" else f"U+{ord(mark):04X}"
