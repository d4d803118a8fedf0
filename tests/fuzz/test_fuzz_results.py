"""Results folders of which one file was damaged: tables count the cell as missing, or tell what is wrong."""

import json

import pytest
import torch  # noqa: F401  (it is imported before memory is limited)
from damage import VALUES, cases, damaged_bytes, damaged_mapping, damaged_text, outcome
from hypothesis import given
from hypothesis import strategies as st

from made_tables import TARGETS, simple_plan
from tta_bench.records.predictions import read_predictions
from tta_bench.report.tables import build_table
from tta_bench.report.write import plan_table, states, status_table, summary_table

FILES = ("per_image.csv", "summary.json", "status.json", "predictions.npz", "config.yaml")


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return simple_plan(tmp_path_factory.mktemp("results"), {"no_adapt": 0, "tent": 3})


@pytest.mark.parametrize("name", FILES)
@cases(seeded=6, fuzz=150)
@given(data=st.data())
def test_a_damaged_file_of_a_cell_is_read_around_or_refused(name, data, plan):
    path = plan.cells[-1].cell.folder().path / name
    sound = path.read_bytes()
    kinds = [damaged_bytes(sound), st.just(b""), st.just(b"{}"), st.just(b"\xff\xfe\x00")]
    if name.endswith(".csv"):
        kinds.append(damaged_text(sound.decode()))
    if name.endswith(".json"):
        kinds += [damaged_mapping(json.loads(sound)).map(_as_json), VALUES.map(_as_json)]
    try:
        path.write_bytes(data.draw(st.one_of(*kinds)))
        with outcome():
            summary_table(build_table(plan))
        with outcome():
            status_table(plan, states(plan))
        with outcome():
            plan_table(plan)
        if name == "predictions.npz":
            with outcome():
                read_predictions(path, TARGETS[0], [(2, 64, 64)])
    finally:
        path.write_bytes(sound)


def _as_json(content):
    return json.dumps(content).encode()
