"""A table as CSV, with all digits."""

from __future__ import annotations

from typing import Any

from tta_bench.report.model import Row, Table
from tta_bench.report.text import case_mean
from tta_bench.report.warnings import warnings
from tta_bench.runtime.names import csv_file

FILE = "table.csv"


def write(table: Table) -> str:
    """One line per row and source and one for the average, with all digits.

    Differences, costs and counts of the whole row are on the line of the average, and so are the table's warnings.
    """
    weak = " ".join(warnings(table))
    lines = [_csv_line(table, row, name, weak) for row in table.rows for name in (*table.sources, table.average_name)]
    return csv_file(list(dict.fromkeys(key for line in lines for key in line)), lines)


def _csv_line(table: Table, row: Row, name: str, weak: str) -> dict[str, Any]:
    result = row.result(name)
    line: dict[str, Any] = {
        "table": table.name,
        "row": row.label,
        "method": row.method,
        **({"setting": row.setting} if table.has_settings else {}),
        **({"options": row.options} if table.has_presets else {}),
        **(
            {"setting": row.setting, "may_see": row.may_see, "reconstruction": row.reconstruction}
            if table.has_settings
            else {}
        ),
        "source": name,
        "unit": table.metric.unit,
        "better": table.metric.direction,
        table.metric.name: result.value,
        "std": result.std,
        "n": result.n,
        "seeds": len(result.seeds),
        "missing_seeds": len(result.missing),
        **{f"{table.metric.name}_{label}": result.classes.get(label) for label in table.classes},
        **({f"case_{table.metric.name}": of_cases} if (of_cases := case_mean(table, row, name)) is not None else {}),
        "paper": row.paper.get(name),
        "minus_paper": row.minus_paper.get(name),
    }
    if name == table.average_name:
        for prefix, comparison in (("reference", row.vs_reference), ("bn_only", row.vs_bn_only)):
            for key in ("against", "mean", "low", "high", "p", "p_holm", "n", "excluded"):
                line[f"vs_{prefix}_{key}"] = None if comparison is None else getattr(comparison, key)
        line |= {"dice_on_source": row.retained} if table.has_adapted else {}
        line |= row.costs._asdict() | {"skipped_updates": row.skipped_updates, "warnings": weak}
    return line | {"protocol_hash": table.protocol_hash}
