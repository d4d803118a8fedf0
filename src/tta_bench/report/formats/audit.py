"""A table by groups of images as CSV, with all digits."""

from __future__ import annotations

from typing import Any

from tta_bench.report.model import Table
from tta_bench.runtime.names import csv_file

FILE = "audit.csv"


def write(table: Table) -> str:
    """One line per row and group, and the row's gap on each; nothing where no audit is asked for."""
    if table.audit is None:
        return ""
    lines: list[dict[str, Any]] = []
    for row in table.audit.rows:
        change = row.widening or (None, None, None)
        gap: dict[str, Any] = {"worst_group": row.worst, "gap": row.gap}
        gap |= dict(zip(("gap_minus_reference", "low", "high"), change, strict=True))
        head = {"table": table.name, "row": row.label, "attribute": table.audit.attribute}
        for group, n in table.audit.counts.items():
            of_group = {"group": group, "n": n, table.metric.name: row.means[group]}
            lines.append({**head, **of_group, **gap, "protocol_hash": table.protocol_hash})
    return csv_file(list(lines[0]), lines)
