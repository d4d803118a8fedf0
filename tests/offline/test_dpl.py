"""DPL's pseudo-labels, against numbers worked out by hand and a plain loop."""

import copy
from dataclasses import replace

import pytest
import torch
from test_stage import tiny_options

from discs import discs
from tta_bench.offline.access import Access, Grounds
from tta_bench.offline.base import SYSTEMS, batches
from tta_bench.offline.corruption import corrupt, erased, salt_and_pepper
from tta_bench.ops.preprocessing import PAPER
from tta_bench.ops.pseudo_labels import Beliefs, beliefs, masked_cross_entropy, prototype_labels, trusted_labels


def test_mean_and_spread_over_passes():
    believed = beliefs(torch.tensor([0.0, 2.0, 4.0]).reshape(3, 1, 1, 1, 1))
    assert believed.uncertainty.item() == pytest.approx(0.191840, abs=1e-6)
    assert believed.probability.item() == pytest.approx(0.787604, abs=1e-6)
    with pytest.raises(ValueError, match="at least 2"):
        beliefs(torch.zeros(1, 1, 1, 1, 1))


def by_loop(features, labels, reliable, probability):
    """The nearest centroid of each pixel, pixel by pixel."""
    out = torch.zeros_like(labels)
    for channel in range(labels.shape[1]):
        sums = {True: [0.0, 0.0], False: [0.0, 0.0]}
        pixels = [(n, y, x) for n in range(2) for y in range(4) for x in range(4)]
        for n, y, x in pixels:
            side, p = bool(labels[n, channel, y, x]), probability[n, channel, y, x]
            weight = float(reliable[n, channel, y, x]) * (p if side else 1 - p)
            sums[side] = [sums[side][0] + weight * features[n, :, y, x], sums[side][1] + weight]
        if not all(weight > 0 for _, weight in sums.values()):
            continue
        centres = {side: total / weight for side, (total, weight) in sums.items()}
        for n, y, x in pixels:
            near, far = (((features[n, :, y, x] - centres[side]) ** 2).sum() for side in (True, False))
            out[n, channel, y, x] = near < far
    return out


def example(seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    probability = torch.rand(2, 2, 4, 4, generator=generator, dtype=torch.float64)
    return features, probability > 0.6, torch.rand(2, 2, 4, 4, generator=generator) < 0.7, probability


@pytest.mark.parametrize("seed", range(5))
def test_prototype_labels_are_those_of_a_plain_loop(seed):
    given = example(seed)
    assert torch.equal(prototype_labels(*given), by_loop(*given))
    features, labels, reliable, probability = given
    of_each = features[:, None].expand(-1, 2, -1, -1, -1)
    assert torch.equal(prototype_labels(of_each, labels, reliable, probability), prototype_labels(*given))


def test_a_side_without_pixels_has_no_prototype_and_leaves_the_background_trusted():
    probability = torch.full((1, 2, 8, 8), 0.01)
    features = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    trusted = trusted_labels(Beliefs(probability, torch.zeros_like(probability)), features)
    assert not trusted.labels.any()
    assert trusted.mask.all(), "background agrees with no prototype being nearer"
    loss = masked_cross_entropy(torch.zeros(1, 2, 8, 8), trusted.labels, trusted.mask)
    assert loss.item() == pytest.approx(0.693147, abs=1e-6)


def test_without_trusted_pixels_the_loss_is_nothing():
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    none = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    loss = masked_cross_entropy(logits, none, none)
    loss.backward()
    assert (loss.item(), logits.grad.abs().max().item()) == (0.0, 0.0)


def system_of(name, model, **changes):
    target = discs("target", 3)
    kind = SYSTEMS.get(name)
    access = Access(kind.card, Grounds(target, range(3), 0, None, PAPER, 0))
    return kind(copy.deepcopy(model), access, replace(tiny_options(name), **changes), 0)


def test_without_dropout_nothing_is_uncertain_and_the_labels_are_those_of_the_source_model(model):
    system = system_of("dpl", model, dropout_bottleneck=0.0, dropout_head=0.0)
    images = system.access.target_images.batch([0, 1, 2])
    with torch.no_grad():
        activations = model.activations(images)
    trusted = system.trusted([0, 1, 2])
    expected = torch.sigmoid(activations.logits) > 0.75
    assert torch.equal(trusted.labels, expected)
    ready = torch.ones_like(expected)
    parts = batches([0, 1, 2], system.options.batch_size)
    agree = [
        prototype_labels(activations.head_input[p], expected[p], ready[p], torch.sigmoid(activations.logits[p]))
        for p in parts
    ]
    assert torch.equal(trusted.mask, expected == torch.cat(agree))


def test_the_labels_are_made_once_and_by_the_source_model(model):
    system = system_of("dpl", model, learning_rate=0.01)
    first = system.trusted([0, 1, 2])
    statistics = system.model.state_dict()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in statistics.items()), (
        "passes leave no trace"
    )
    system.epoch(0)
    again = system.trusted([0, 1, 2])
    assert torch.equal(first.labels, again.labels)
    assert torch.equal(first.mask, again.mask)


@pytest.mark.parametrize("name", ["dpl", "grad_cl"])
def test_without_trusted_pixels_nothing_is_learnt_from_what_came_before(name, model):
    system = system_of(name, model, dropout_bottleneck=0.0, dropout_head=0.0, threshold=0.5, learning_rate=0.01)
    assert system.epoch(0)["loss"] > 0
    moment = next(iter(system.optimizer.state.values()))["exp_avg"]
    assert moment.abs().max() > 0
    system.masks = torch.zeros_like(system.masks)
    before = {key: value.clone() for key, value in system.model.named_parameters()}
    assert system.epoch(1)["loss"] == 0
    assert all(torch.equal(value, before[key]) for key, value in system.model.named_parameters())


def test_corruption_changes_what_it_says():
    generator = torch.Generator().manual_seed(0)
    image = torch.full((3, 100, 100), 0.5)
    black = salt_and_pepper(image, 0.0, generator)
    assert 10 < (black == 0).all(0).sum() < 90
    assert ((black == 0) | (black == 0.5)).all()
    box = erased(image, 0.04, 0.5, (1.0, 0.0), 0.9)
    ys, xs = (box[0] == torch.tensor(0.9)).nonzero().T
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (86, 99, 0, 27)
    images = torch.rand(4, 3, 64, 64, generator=generator)
    before = images.clone()
    out = corrupt(images, torch.Generator().manual_seed(5))
    assert torch.equal(images, before)
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(out, corrupt(images, torch.Generator().manual_seed(5)))
