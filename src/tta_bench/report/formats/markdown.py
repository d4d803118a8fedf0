"""A table as Markdown: warnings, pipe tables, best bold and second best underlined, notes, figures beside it."""

from __future__ import annotations

import re

from tta_bench.report.model import Table
from tta_bench.report.notes import headline, notes
from tta_bench.report.text import grids
from tta_bench.report.warnings import warnings
from tta_bench.runtime.names import shown

FILE = "table.md"


def write(table: Table) -> str:
    """The content of a Markdown file."""
    weak = [f"> - {_markdown_text(warning)}" for warning in warnings(table)]
    lines = [f"# {_markdown_text(table.name)}", "", *(["> **Warnings**", ">", *weak, ""] if weak else [])]
    lines += [_markdown_text(table.description), ""]
    lines += [f"**{_markdown_text(headline(table))}**", ""] if headline(table) else []
    for name, (head, *body) in grids(table, _markdown_text, "**{}**", "<u>{}</u>"):
        rule = ["---", *["---:"] * (len(head) - 1)]
        lines += [f"**{_markdown_text(name)}**", ""]
        lines += [*(f"| {' | '.join(cells)} |" for cells in (head, rule, *body)), ""]
    lines += [f"- {_markdown_text(note)}" for note in notes(table)]
    for figure in table.drawings.figures if table.drawings else ():
        lines += [
            "",
            f"![{_markdown_text(figure.title)}](figures/{figure.file}.svg)",
            "",
            _markdown_text(figure.caption),
        ]
    return "\n".join(lines) + "\n"


def _markdown_text(text: str) -> str:
    """Text that Markdown shows as it is; an underscore inside a word is no emphasis."""
    marks = re.sub(r"([\\`*|<\[\]~#&$]|(?<!\w)_|_(?!\w))", r"\\\1", shown(text))
    return re.sub(r"^(\d*)(>|[-+.)](?= ))", r"\1\\\2", marks)  # no list and no quotation
