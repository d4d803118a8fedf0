"""The simulation of many GPUs keeps the rules of the launchers."""

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "scaling.py"


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("scaling", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = module
    spec.loader.exec_module(module)
    return module


def test_jobs_go_in_order_to_the_place_that_is_free_first(scaling):
    jobs = [scaling.Job(seconds, 1) for seconds in (3, 1, 1, 4)]
    assert scaling.makespan(jobs, 1) == 9
    assert scaling.makespan(jobs, 2) == 6  # 3 | 1, 1, 4
    assert scaling.makespan(jobs, 4) == 4


def test_no_cell_begins_before_the_last_training_ends_and_failed_ones_come_last(scaling):
    trainings, cells = [scaling.Job(10, 1), scaling.Job(2, 1)], [scaling.Job(4, 1)] * 4
    assert scaling.sweep(trainings, cells, 4, failing=0) == 14
    assert scaling.sweep(trainings, cells, 4, failing=1) == 10 + 2 + 4, "half of each, and then all of them"


def test_more_gpus_are_never_slower_and_never_faster_than_their_number(scaling):
    trainings, cells = [scaling.Job(50, 1)] * 5, [scaling.Job(7 + n % 5, 1) for n in range(200)]
    hours = {places: scaling.sweep(trainings, cells, places) for places in (1, 2, 8, 100)}
    for few, many in pairwise(hours):
        assert hours[many] <= hours[few] <= hours[many] * many / few + 1e-9
