"""The order in which images come: a function of its number and of the target alone."""

import threading

import numpy as np
import pytest
import torch

from tta_bench.adaptation.scenarios.base import scenario_of
from tta_bench.data.domain import Domain
from tta_bench.data.streams import AHEAD, Ahead, LockstepDataset, LockstepGroups, passes
from tta_bench.ops.draws import Draws, drawn


def domain(name, count):
    pixels = np.zeros((count, 1, 1), np.uint8)
    names = tuple(f"image{index}" for index in range(count))
    return Domain(name, names, np.stack([pixels] * 3, axis=-1), pixels, {"disc": (1,)}, "")


DOMAINS = {"A": domain("A", 20), "C": domain("C", 20), "B": domain("B", 7)}


def indices(order, *names, domains=DOMAINS):
    return [[place.index for place in stream] for stream in passes(domains, names, order)]


def test_order_0_is_that_of_the_files():
    assert indices(0, "A", "B") == [list(range(20)), list(range(7))]
    assert passes(DOMAINS, ("B",)) == passes(DOMAINS, ("B",), 0)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_an_order_is_a_permutation_that_depends_on_its_number_and_the_target_s_name_alone(order):
    (first,) = indices(order, "A")
    assert sorted(first) == list(range(20))
    assert first != list(range(20))
    assert indices(order, "C", "A", "B")[1] == first, "the same beside other targets"
    assert indices(order, "A", domains={"A": domain("A", 20)}) == [first], "the same for other images of this name"
    assert indices(order, "C") != [first]
    assert indices(order + 1, "A") != [first]


def test_the_orders_are_the_same_on_every_machine():
    assert indices(1, "B") == [[4, 3, 6, 2, 0, 1, 5]]
    assert indices(2, "B") == [[6, 0, 1, 3, 2, 5, 4]]


@pytest.mark.parametrize("order", [0, 1])
def test_positions_count_the_images_of_each_target_from_0_also_in_one_stream_through_all(order):
    (stream,) = scenario_of("never").streams(passes(DOMAINS, ("B", "A"), order))
    assert [(place.domain, place.position) for place in stream] == [
        *(("B", position) for position in range(7)),
        *(("A", position) for position in range(20)),
    ]
    assert [place.index for place in stream] == [index for stream in indices(order, "B", "A") for index in stream]


def test_groups_are_of_the_width_asked_for_and_longest_first():
    streams = passes(DOMAINS, ("B", "A", "C"), 1)
    assert [[stream[0].domain for stream in group] for group in LockstepGroups(streams, 2)] == [["A", "C"], ["B"]]
    assert list(LockstepGroups(streams, 1)) == [[stream] for stream in sorted(streams, key=len, reverse=True)]


def test_groups_that_do_not_fit_begin_again_narrower_and_those_of_a_run_before_go_on():
    groups = LockstepGroups([tuple(range(n)) for n in (2, 7, 5, 4, 6, 3)], 4)
    begun = []
    for group in groups:
        begun.append([len(stream) for stream in group])
        if len(group) > 2:
            groups.halve()
    assert begun == [[7, 6, 5, 4], [7, 6], [5, 4], [3, 2]]
    assert (groups.sizes, groups.images_in_a_row()) == ([2, 2, 2], 7 + 5 + 3)
    later = LockstepGroups(groups.streams, 1)
    assert later.images_in_a_row() == 0
    later.go_on_from([2, 2])
    assert [[len(stream) for stream in group] for group in later] == [[5, 4], [3], [2]]
    assert later.images_in_a_row() == 7 + 5 + 3 + 2


def test_batches_read_ahead_are_those_of_the_data_set_and_so_are_its_faults():
    pictures = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    domain = Domain("A", tuple("abcde"), pictures, None, {"f": (1,)}, "")
    images = LockstepDataset({"A": domain}, passes({"A": domain}, ["A"]), seeds=[3], first=1)
    loaded = list(Ahead(images))
    assert len(loaded) == len(Ahead(images)) == 4
    for found, k in zip(loaded, range(4), strict=True):
        assert torch.equal(found.images, images[k].images)
        assert (found.keys, found.places) == (images[k].keys, images[k].places)
    broken = LockstepDataset({"A": domain.chosen([0, 1])}, passes({"A": domain}, ["A"]), seeds=[3])
    read = iter(Ahead(broken))
    next(read), next(read)
    with pytest.raises(IndexError):
        next(read)
    present = threading.active_count()
    stopped = iter(Ahead(images))
    drawn(Draws(next(stopped).keys).generators("noise"), noise, 4)
    assert threading.active_count() > present
    del stopped  # whoever stops early ends the threads, too
    assert threading.active_count() == present


def noise(generator, count):
    if count > 5:
        raise FloatingPointError
    return torch.randn(count, generator=generator)


def test_draws_made_ahead_are_those_made_when_they_are_asked_for_and_so_are_their_faults():
    images = LockstepDataset(DOMAINS, passes(DOMAINS, ["A", "B"]), seeds=[3])
    for k, batch in enumerate(Ahead(images)):
        for update, count in ((0, 3), (1, 4)):
            asked = (Draws(keys, update).generators("noise") for keys in (batch.keys, images.keys(k)))
            ahead, spontaneous = (drawn(generators, noise, count) for generators in asked)
            assert torch.equal(ahead, spontaneous)
        if k == 0 or k > AHEAD:  # what those between find depends on which thread is first
            assert (batch.keys.unexpected == 0) == (k > 0)
    read = iter(Ahead(images))
    with pytest.raises(FloatingPointError):
        drawn(Draws(next(read).keys).generators("noise"), noise, 6)
    with pytest.raises(FloatingPointError):  # drawn ahead, because it was asked for
        list(read)
