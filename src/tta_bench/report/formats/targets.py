"""A table per source, target domain and class as CSV, with all digits."""

from __future__ import annotations

from tta_bench.report.breakdown import breakdown
from tta_bench.report.model import Table
from tta_bench.runtime.names import csv_file

FILE = "targets.csv"


def write(table: Table) -> str:
    """One line per row, source and target with a finished cell."""
    name = table.metric.name
    classes = {f"{name}_{label}": label for label in table.classes}
    told = {row.label: {"setting": row.setting_told} if table.has_settings else {} for row in table.rows}
    parts = breakdown(table)
    cases = [f"case_{name}"] if any(part.cases is not None for part in parts) else []
    settings = ["setting"] * table.has_settings
    columns = ["table", "row", *settings, "source", "target", name, *classes, *cases, "n", "seeds", "protocol_hash"]
    lines = [
        {"table": table.name, "row": part.row, **told[part.row], "source": part.source, "target": part.target}
        | {name: part.mean}
        | {column: part.values[label] for column, label in classes.items()}
        | dict.fromkeys(cases, part.cases)
        | {"n": part.n, "seeds": part.seeds, "protocol_hash": table.protocol_hash}
        for part in parts
    ]
    return csv_file(columns, lines)
