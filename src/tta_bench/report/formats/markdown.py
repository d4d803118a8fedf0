"""A table as Markdown: pipe tables, best bold and second best underlined, and the notes."""

from __future__ import annotations

import re

from tta_bench.report.model import Table
from tta_bench.report.notes import notes
from tta_bench.report.text import grids
from tta_bench.runtime.names import shown

FILE = "table.md"


def write(table: Table) -> str:
    """The content of a Markdown file."""
    lines = [f"# {_markdown_text(table.name)}", "", _markdown_text(table.description), ""]
    for _, (head, *body) in grids(table, _markdown_text, "**{}**", "<u>{}</u>"):
        rule = ["---", *["---:"] * (len(head) - 1)]
        lines += [*(f"| {' | '.join(cells)} |" for cells in (head, rule, *body)), ""]
    lines += [f"- {_markdown_text(note)}" for note in notes(table)]
    return "\n".join(lines) + "\n"


def _markdown_text(text: str) -> str:
    """Text that Markdown shows as it is; an underscore inside a word is no emphasis."""
    marks = re.sub(r"([\\`*|<\[\]~#&$]|(?<!\w)_|_(?!\w))", r"\\\1", shown(text))
    return re.sub(r"^(\d*)(>|[-+.)](?= ))", r"\1\\\2", marks)  # no list and no quotation
