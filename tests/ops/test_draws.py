import threading

import pytest
import torch

from tta_bench.ops.draws import Draws, ImageKey, drawn, seed_of

KEYS = [ImageKey(0, "A", "one"), ImageKey(0, "A", "two"), ImageKey(0, "B", "one")]


def numbers(generators):
    return [torch.rand(4, generator=generator).tolist() for generator in generators]


def test_the_seed_of_given_parts_is_the_same_on_every_machine():
    assert seed_of(0, "A", "one", 0, "strong view") == 5798285500371961472


def test_seeds_fit_a_generator():
    seeds = {seed_of("part", n) for n in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(("first", "second"), [(("a", "bc"), ("ab", "c")), ((1, 23), (12, 3)), (("a",), ("a", ""))])
def test_parts_are_kept_apart(first, second):
    assert seed_of(*first) != seed_of(*second)


def test_asking_twice_for_a_purpose_gives_the_same_numbers():
    draws = Draws(KEYS)
    assert numbers(draws.generators("noise")) == numbers(draws.generators("noise"))


def test_draws_differ_between_streams_purposes_updates_and_seeds():
    drawn = [
        *numbers(Draws(KEYS).generators("noise")),
        *numbers(Draws(KEYS).generators("rotation")),
        *numbers(Draws(KEYS, update=1).generators("noise")),
        *numbers(Draws([ImageKey(1, k.domain, k.image) for k in KEYS]).generators("noise")),
    ]
    assert len({tuple(values) for values in drawn}) == len(drawn) == 12


def test_an_image_s_draws_depend_on_no_neighbour_order_or_global_state():
    expected = dict(zip(KEYS, numbers(Draws(KEYS).generators("noise")), strict=True))
    torch.manual_seed(5)
    for keys in ([KEYS[2]], KEYS[::-1], [KEYS[1], KEYS[1]]):
        assert numbers(Draws(keys).generators("noise")) == [expected[key] for key in keys]


def test_beside_a_gpu_threads_draw_the_same(monkeypatch):
    def draw(generator, count):
        return torch.randn(count, generator=generator), threading.current_thread().name

    def found():
        return drawn(
            Draws([ImageKey(0, "B", f"image{k}") for k in range(5)]).generators("noise"), draw, 64, joined=list
        )

    alone = found()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for (expected, here), (values, there) in zip(alone, found(), strict=True):
        assert torch.equal(values, expected)
        assert there != here
