"""Laws of synthetic shifts."""

import pytest
import torch

from tta_bench.ops.shifts import SHIFTS, shifted
from tta_bench.runtime.paths import shipped

STRENGTHS = [(name, each) for name, values in shipped("shared/search")["shifts"].items() for each in values]


def image():
    """Gradients of two directions and a grey channel, with squares of 8 pixels on them."""
    ramp = torch.linspace(20, 200, 128)
    places = torch.arange(128) // 8
    squares = 30 * ((places[:, None] + places[None]) % 2)
    ramps = torch.stack([ramp[:, None].expand(128, 128), ramp[None].expand(128, 128), torch.full((128, 128), 90.0)])
    return (ramps + squares).round()


def draw(name, strength, seed=0):
    return shifted(image(), name, strength, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SHIFTS)
def test_the_neutral_strength_changes_nothing(name):
    assert SHIFTS[name].identity in SHIFTS[name].strengths
    assert torch.equal(draw(name, SHIFTS[name].identity), image())


@pytest.mark.parametrize(("name", "strength"), STRENGTHS)
def test_a_shift_is_seen_stays_in_range_and_is_the_same_for_a_seed(name, strength):
    assert strength in SHIFTS[name].strengths
    changed = draw(name, strength)
    assert torch.equal(changed, draw(name, strength))
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert torch.equal(changed, changed.round())
    # The network sees images after min-max, which undoes what a shift does to all pixels alike.
    before, after = ((each - each.min()) / (each.max() - each.min()) for each in (image(), changed))
    assert (before - after).abs().mean() > 0.005


def test_every_shift_is_searched_by_default():
    assert {name for name, _ in STRENGTHS} == set(SHIFTS)


def test_stronger_is_further_away():
    near, far = ((draw("noise", strength) - image()).abs().mean() for strength in (0.02, 0.1))
    assert near < far
