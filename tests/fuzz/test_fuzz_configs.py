"""Composed configurations and options of methods with odd values anywhere."""

from dataclasses import asdict
from functools import cache

import pytest
from damage import cases, damaged_mapping, outcome
from hypothesis import given
from hypothesis import strategies as st

from tta_bench.launch.check import check
from tta_bench.launch.data_section import validate_data
from tta_bench.launch.validation import validate
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options, method_options


@cache
def composed():
    (config,) = check(["+method=grata", "target=[A,B]", "data.limit=2"])
    return config.model_dump(mode="json")


@cases(seeded=150, fuzz=3000)
@given(data=st.data())
def test_a_configuration_is_valid_or_refused(data):
    content = data.draw(damaged_mapping(composed()))
    with outcome():
        validate(content)


@cases(seeded=30, fuzz=500)
@given(data=st.data())
def test_a_data_section_is_valid_or_refused(data):
    content = data.draw(damaged_mapping(composed()["data"]))
    with outcome():
        validate_data(content)


@pytest.mark.parametrize("name", METHODS.names())
@cases(seeded=5, fuzz=100)
@given(data=st.data())
def test_options_of_a_method_are_valid_or_refused(name, data):
    content = data.draw(damaged_mapping(asdict(default_options(name)) | {"preset": "uniform"}))
    with outcome():
        method_options(content | {"name": name})
