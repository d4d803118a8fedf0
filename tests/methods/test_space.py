"""Laws of the spaces that are searched, over every registered method."""

from dataclasses import asdict

import pytest

from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.methods.space import space_of


@pytest.mark.parametrize("name", METHODS.names())
def test_a_space_is_of_options_begins_at_the_defaults_and_ends_where_they_may(name):
    kind = METHODS.get(name)
    space, defaults = space_of(kind.Options), asdict(default_options(name))
    assert set(space) <= set(defaults)
    if kind.card.needs_gradients:
        assert space["learning_rate"].log
    for option, dimension in space.items():
        assert defaults[option] in dimension
        for end in dimension.choices or (dimension.low, dimension.high):
            changed = default_options(name, **{option: int(end) if dimension.whole else end})
            assert getattr(changed, option) == end
            assert end in dimension
