"""``benchmarks/gpu.py`` reads options without Hydra and pydantic: they are those of a run."""

import runpy
from pathlib import Path

import pytest

from tta_bench.methods.options import default_options

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/gpu.py"), run_name="gpu")


@pytest.mark.parametrize("name", SCRIPT["CHECKED"])
def test_options_are_the_defaults_of_a_run(name):
    assert SCRIPT["options_of"](name) == default_options(name)
