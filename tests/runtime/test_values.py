"""Values of a configuration, as launchers, tables and dashboards name them."""

import math

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from tta_bench.runtime.values import flat, typed

plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False))


@given(value=st.one_of(plain, st.lists(plain)))
def test_what_is_typed_is_read_as_the_value_it_was(value):
    (override,) = [OverridesParser.create().parse_override(f"key={typed(value)}")]
    read = override.value()
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(("value", "text"), [(1e-3, "1e-3"), (-2.5e-05, "-2.5e-5"), (0.01, "0.01"), (0.0, "0.0")])
def test_small_numbers_are_short(value, text):
    assert typed(value) == text
    assert typed(("ce", value)) == f"[ce,{text}]"
    assert typed(math.nextafter(value, 1)) != text


@given(section=st.recursive(plain, lambda below: st.dictionaries(st.sampled_from("abc"), below), max_leaves=6))
def test_a_flat_section_has_every_value_once_and_nothing_for_what_is_empty(section):
    def values(each):
        return [leaf for part in each.values() for leaf in values(part)] if isinstance(each, dict) else [each]

    section = {"section": section}
    assert list(flat(section).values()) == values(section)
    assert [key.replace(".", "/") for key in flat(section)] == list(flat(section, "/"))
    assert list(flat(section, prefix="at ")) == [f"at {key}" for key in flat(section)]
