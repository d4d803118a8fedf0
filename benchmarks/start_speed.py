"""Processor time of commands that find everything finished; see ``README.md`` beside this.

The cells of an experiment are made first, small ones, which takes minutes; ``--folder`` keeps them for the next time.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL = (
    "data=synthetic",
    "data.image_size=64",
    "data.limit=4",
    "model=unet",
    "model.branches=[reconstruction,denoising,rotation]",
    "training.epochs=1",
    "training.min_steps=1",
    "seed=0",
)
"""Settings of the cells."""


def main() -> None:
    """Make what is not finished, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--experiment", default="table1")
    parser.add_argument("--folder", type=Path, help="results folder to keep; default: one that is deleted")
    parser.add_argument("--repeat", type=int, default=5, help="turns")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = commands(parsed.experiment, parsed.folder or Path(name) / "results", Path(name))
        for words in rows.values():
            cpu_seconds(words)
        turns = [{row: cpu_seconds(words) for row, words in rows.items()} for _ in range(parsed.repeat)]
    print(table({row: [turn[row] for turn in turns] for row in rows}))


def commands(experiment: str, results: Path, scratch: Path) -> dict[str, list[str]]:
    """Row of the table -> arguments of Python; the run that makes the cells stands before what reads them."""
    run, tool = ["-m", "tta_bench"], ["-m", "tta_bench.cli"]
    settings = [*SMALL, f"results_root={results}"]
    of_table = [experiment, *settings]
    return {
        "import torch": ["-c", "import torch"],
        f"experiment={experiment}": [*run, f"experiment={experiment}", *settings],
        "a cell": [*run, "+method=grata", "source=A", *settings],
        "tta-bench plan": [*tool, "plan", *of_table],
        "tta-bench status": [*tool, "status", *of_table],
        "tta-bench cells": [*tool, "cells", settings[-1]],
        "tta-bench report": [*tool, "report", *of_table, "--out", str(scratch / "report")],
    }


def cpu_seconds(words: list[str]) -> float:
    """Of a process, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(seconds: dict[str, list[float]]) -> str:
    """As Markdown; with the load of the machine: a core that is shared counts more seconds for the same work."""
    load = os.getloadavg()[0]
    lines = [f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {load:.1f}", ""]
    lines += ["| finished before | s of CPU | least | most |", "| --- | --- | --- | --- |"]
    for row, values in seconds.items():
        numbers = statistics.median(values), min(values), max(values)
        lines.append(f"| {row} | {' | '.join(f'{value:.2f}' for value in numbers)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
