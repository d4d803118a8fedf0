"""What a method sees and what a network sees: [0, 1] images on one side of the border, standardised ones behind it."""

import copy

import pytest
import torch
from runs import branches_of, every_method, make, run

from tta_bench.methods.base import METHODS
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OTHERWISE = {"dua": {"pad_mode": "zeros"}}
"""Options with which a method assumes more than by default."""

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def network_with(model, name, **preprocessing):
    return AdaptableNetwork(copy.deepcopy(model).expect(Preprocessing(**preprocessing)), branches_of(name))


@pytest.fixture
def streams(images):
    return {"A": images[:3], "B": images[3:5]}


@every_method
def test_a_method_sees_unit_range_and_its_network_what_it_was_trained_with(name, small_net, streams):
    """All that reaches the first convolution is the standardised form of what a method gave to the network."""
    network = network_with(small_net, name, range="unit", mean=MEAN, std=STD)
    given, received = [], []
    whole = network.model.features
    network.model.features = lambda images: given.append(images.detach().clone()) or whole(images)
    inner = network.model.encode
    network.model.encode = lambda images: received.append(images.detach().clone()) or inner(images)
    run(make(name, network), streams)
    assert given
    mean, std = (torch.tensor(value, dtype=torch.float64)[:, None, None] for value in (MEAN, STD))
    for images, inputs in zip(given, received, strict=True):
        torch.testing.assert_close(inputs, (images - mean) / std, rtol=1e-6, atol=1e-6)
    if METHODS.get(name).card.setting == "tta":
        assert any(torch.equal(images[-1], streams["B"][-1]) for images in given), "the image itself is predicted"


@every_method
def test_the_card_says_whether_a_method_assumes_unit_range(name, small_net, streams):
    """The same network function on images of another scale: only a method that assumes [0, 1] notices."""
    shifted = {domain: 4 * images - 1 for domain, images in streams.items()}
    moved = network_with(small_net, name, mean=(-1.0,), std=(4.0,))
    same = True
    for changed in ({}, *([OTHERWISE[name]] if name in OTHERWISE else [])):
        plain = run(make(name, network_with(small_net, name), **changed), streams)
        # As for min-max, so that the strong view's own range is all that can differ.
        other = run(make(name, moved, **changed), shifted)
        same &= all(torch.allclose(plain.logits[key], other.logits[key], **CLOSE) for key in plain.logits)
    assert same != METHODS.get(name).card.needs_unit_range
