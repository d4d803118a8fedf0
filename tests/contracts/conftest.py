"""What the laws of every method share: networks, streams, and the runs that several laws compare with."""

import functools

import pytest
from runs import LENGTHS, branches_of, make, one, run

from tta_bench.models.adaptable import AdaptableNetwork


@pytest.fixture(scope="session")
def networks(small_net):
    """Networks by the branches they adapt; shared by all tests, which is part of what they show."""
    made: dict[tuple[str, ...], AdaptableNetwork] = {}

    def network(name):
        branches = branches_of(name)
        if branches not in made:
            made[branches] = AdaptableNetwork(small_net, branches)
        return made[branches]

    return network


@pytest.fixture(scope="session")
def streams(images):
    """Three streams of 5, 4 and 2 images."""
    parts = images[: sum(LENGTHS.values())].split(tuple(LENGTHS.values()))
    return dict(zip(LENGTHS, parts, strict=True))


@pytest.fixture(scope="session")
def usual(networks, streams):
    """Runs of methods as they are, along all streams or one, each made once for all laws that compare with it."""

    @functools.cache
    def usual(name, domain=None):
        return run(make(name, networks(name)), streams if domain is None else one(streams, domain))

    return usual
