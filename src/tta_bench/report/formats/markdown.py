"""A table as Markdown: pipe tables, best bold and second best underlined, and the notes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tta_bench.report.columns import Column, column_groups
from tta_bench.report.model import Table
from tta_bench.report.notes import notes
from tta_bench.runtime.names import shown

FILE = "table.md"


def write(table: Table) -> str:
    """The content of a Markdown file."""
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
