"""The figures of ``docs/performance.md``, from the last rows of each machine in ``history.jsonl``.

python benchmarks/plots.py            # writes docs/images/performance_*.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from history import HISTORY, Row, latest_rows, read

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def _label(row: Row) -> str:
    """What a row is of; bars of one label would lie over each other."""
    precision = f", {row['precision']}" * (row["precision"] != "f32")
    streams = f", {row['streams']} streams" * (row["streams"] > 1)
    return f"{row['method']}, {row['size']} px{precision}{streams}" + ", one thread" * (row["threads"] == 1)


def ratios(rows: Sequence[Row], file: Path) -> None:
    """Bars: the time of each method as a share of that of its plain loop, by size and precision."""
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.3 * len(rows)), layout="constrained")
    axes.barh([*map(_label, rows)], [row["ratio"] for row in rows], color="#00796b")
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("time / time of the published procedure")
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def memory(rows: Sequence[Row], file: Path) -> None:
    """Pairs of bars: peak memory of each method and of its plain loop."""
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.4 * len(rows)), layout="constrained")
    for offset, name, label, colour in (
        (-0.2, "peak_mib", "here", "#00796b"),
        (0.2, "plain_peak_mib", "plain", "#b0bec5"),
    ):
        places = [position + offset for position in range(len(rows))]
        axes.barh(places, [row[name] / 1024 for row in rows], height=0.4, label=label, color=colour)
    axes.set_yticks(range(len(rows)), [*map(_label, rows)])
    axes.invert_yaxis()
    axes.set_xlabel("peak memory of the process, GiB")
    axes.legend()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Draw what was measured on one machine."""
    plt.switch_backend("svg")
    plt.rcParams.update({"svg.hashsalt": "tta_bench", "svg.fonttype": "none"})  # the same file for the same numbers
    entries = read(HISTORY)
    parser = argparse.ArgumentParser(description="Draw the figures of docs/performance.md.")
    parser.add_argument("--machine", default=entries[-1]["machine"], help="default: that of the last entry")
    rows = [row for row, _ in latest_rows(entries, parser.parse_args().machine).values()]
    rows.sort(key=lambda row: (row["size"], row["precision"], row["ratio"]))
    ratios(rows, IMAGES / "performance_ratios.svg")
    memory(rows, IMAGES / "performance_memory.svg")


if __name__ == "__main__":
    main()
