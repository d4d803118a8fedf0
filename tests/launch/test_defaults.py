"""Every default stands in one file, and what the files compose to identifies the cells that it always did."""

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from tta_bench.cell import Cell
from tta_bench.launch.check import find_jobs
from tta_bench.launch.experiments import plan
from tta_bench.launch.paths import CONFIG_DIR, EXPERIMENTS_DIR
from tta_bench.methods.base import METHODS
from tta_bench.records.store import cell_hash

LARGEST = 3
"""Values of a block that may stand twice: what a class of masks is, the probability and range of one operation."""

HASHES = json.loads(Path(__file__).with_name("cell_hashes.json").read_text())
"""Experiment or method -> digest of the hashes of its cells; a change of one would orphan finished results."""


def blocks(content):
    """Every mapping and list below ``content``, with the number of values in it."""
    if not isinstance(content, dict | list):
        return 1, []
    parts = [blocks(part) for part in (content.values() if isinstance(content, dict) else content)]
    size = sum(number for number, _ in parts)
    return size, [(size, json.dumps(content, sort_keys=True)), *(block for _, below in parts for block in below)]


def test_no_block_of_defaults_stands_twice():
    places = defaultdict(list)
    for folder in (CONFIG_DIR, EXPERIMENTS_DIR):
        for path in sorted(folder.rglob("*.yaml")):
            for size, text in blocks(yaml.safe_load(path.read_text()))[1]:
                if size > LARGEST:
                    places[text].append(path.name)
    # Rows of experiments set what they are about, not defaults.
    twice = {text: names for text, names in places.items() if len(names) > 1 and '"method"' not in text}
    assert not twice, "share it as a file of conf/shared/"


def test_what_an_experiment_sweeps_over_is_no_list_of_defaults():
    for path in EXPERIMENTS_DIR.glob("*.yaml"):
        assert "model.branches" not in (yaml.safe_load(path.read_text()).get("sweep") or {}), "choose branches=all"


def digest(cells):
    return hashlib.sha256("\n".join(cell_hash(cell.identity()) for cell in cells).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in EXPERIMENTS_DIR.glob("*.yaml") if path.stem != "extended")
)
def test_the_cells_of_an_experiment_are_those_they_always_were(name):
    assert digest([one.cell for one in plan(name).cells]) == HASHES[name]


@pytest.mark.parametrize("preset", ["uniform", "official"])
def test_the_cells_of_all_methods_are_those_they_always_were(preset):
    text = {name: (CONFIG_DIR / f"method/{name}.yaml").read_text() for name in METHODS.names()}
    names = [name for name in text if preset == "uniform" or "\npreset:" in text[name]]
    words = [f"+method={','.join(names)}", "source=D", "branches=all"]
    jobs = find_jobs(words + [f"method.preset={preset}"] * (preset == "official"))
    for name, job in zip(names, jobs, strict=True):
        assert digest(Cell.all_of(job.config)) == HASHES[f"{name} {preset}"]
