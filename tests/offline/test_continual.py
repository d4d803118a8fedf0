"""Stages: what a pool keeps, what each strategy trains on, and the penalties of EWC and LwF in closed form."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_fine_tuning import system_of, trained
from test_stage import importance_of
from torch import nn

from discs import discs
from tta_bench.offline.access import NEEDS, Images, Labelled, Labels
from tta_bench.offline.continual import Member, extended, joined, nearest_member
from tta_bench.offline.ewc import importance, penalty
from tta_bench.offline.fine_tuning import cross_entropy
from tta_bench.offline.lwf import distillation
from tta_bench.offline.routing import distance_to, threshold_of
from tta_bench.ops.gaussians import Gaussian, fit, mahalanobis
from tta_bench.ops.preprocessing import PAPER


def gaussian(seed):
    return fit(torch.randn(20, 3, generator=torch.Generator().manual_seed(seed)))


def test_a_copy_has_the_history_of_its_parent_and_one_gaussian_more():
    a, b, c = map(gaussian, range(3))
    parent, other = Member("A", "model A", (a,)), Member("Z", "model Z", (c,))
    pool = extended((other, parent), parent, "B", "model B", (b,), new=True)
    assert pool[:2] == (other, parent), "the pool before stays as it is"
    assert (pool[2].name, pool[2].model, pool[2].history) == ("B", "model B", (a, b))
    assert parent.history == (a,)


def test_more_training_appends_one_gaussian_to_one_member():
    a, b, c = map(gaussian, range(3))
    parent, other = Member("A", "model A", (a,)), Member("Z", "model Z", (c,))
    pool = extended((parent, other), parent, "B", "model B", (b,), new=False)
    assert [(each.name, each.model, each.history) for each in pool] == [
        ("A", "model B", (a, b)),
        ("Z", "model Z", (c,)),
    ]


def test_the_nearest_member_is_trained_and_copied_from_its_threshold_on():
    a, b = Member("A", None, (gaussian(0),)), Member("B", None, (gaussian(0), gaussian(1)))
    bar = threshold_of(a.history)
    assert nearest_member((a,), {"A": bar / 2}) == (a, False), "of one model there is no choice"
    assert nearest_member((a, b), {"A": bar, "B": bar + 1}) == (a, True)
    assert nearest_member((a, b), {"A": bar, "B": 0.0}) == (b, False)


def test_a_longer_history_is_no_further_away_for_that():
    features, known = torch.randn(5, 3), gaussian(0)
    once, twice = distance_to([known], features), distance_to([known, known], features)
    assert torch.equal(once, mahalanobis(features, known))
    assert torch.equal(once, twice)
    assert threshold_of([known]) == threshold_of([known, known]) == known.threshold


def test_a_gaussian_is_what_is_kept_of_it():
    before = gaussian(0)
    after = Gaussian.of(before.content())
    assert (after.typical, after.threshold) == (before.typical, before.threshold)
    assert torch.equal(after.precision, before.precision)


def test_joined_domains_have_the_images_and_labels_of_each():
    parts = [discs("A", 2), discs("B", 3)]
    both = joined(parts)
    assert len(both) == 5
    assert both.image_names == ("A/A0", "A/A1", "B/B0", "B/B1", "B/B2")
    for k, (part, index) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]):
        assert torch.equal(both.image(k), parts[part].image(index))
        assert torch.equal(both.label(k), parts[part].label(index))
    assert both.fingerprint != joined(parts[::-1]).fingerprint


def test_joint_training_draws_from_all_images_alike(model):
    system = system_of("joint", model, labels=4, batch_size=9)
    assert sorted(system.steps(0)[0]) == list(range(9)), "four of the target, five of the source"
    images, labels = system.batch([0, 3, 4, 8], torch.Generator())
    target, source = discs("target", 4), discs("source", 5)
    for got, domain, index in zip(images, (target, target, source, source), (0, 3, 0, 4), strict=True):
        assert torch.equal(got, domain.image(index))
    assert torch.equal(labels[3], source.label(4))


@pytest.fixture
def important(model, monkeypatch):
    """All parameters matter alike."""
    monkeypatch.setitem(NEEDS, "source_importance", lambda grounds: importance_of(model))


@pytest.mark.parametrize("name", ["ewc", "lwf"])
def test_without_weight_it_is_sequential_training_bit_for_bit(name, model, important):
    plain = trained("fta", model, epochs=2)
    free, held = (trained(name, model, epochs=2, weight=weight) for weight in (0.0, 100.0))
    assert all(torch.equal(plain[key], free[key]) for key in plain)
    assert not all(torch.equal(plain[key], held[key]) for key in plain)


def test_a_large_weight_of_ewc_holds_the_weights(model, important):
    def moved(weight):
        after = trained("ewc", model, epochs=4, weight=weight, optimizer="sgd", learning_rate=1e-4, momentum=0.0)
        return sum(float((after[key] - each).detach().square().sum()) for key, each in model.named_parameters())

    assert moved(5e3) < moved(0.0) / 2


def test_the_penalty_is_half_the_weighted_squared_distance():
    parameters = {"a": nn.Parameter(torch.tensor([1.0, 2.0])), "b": nn.Parameter(torch.tensor([3.0]))}
    anchors = {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([1.0])}
    found = penalty(parameters, anchors, {"a": torch.tensor([2.0, 0.5]), "b": torch.tensor([3.0])})
    assert found.item() == (2 * 1 + 0.5 * 4 + 3 * 4) / 2


def test_importance_is_the_mean_squared_gradient_of_single_images(model):
    domain, model = discs("A", 2), copy.deepcopy(model).eval()
    found = importance(model, Labelled(Images(domain, range(2), PAPER), Labels(domain, range(2))))
    name, parameter = list(model.named_parameters())[-1]
    squares = []
    for k in range(2):
        loss = cross_entropy(model, model(domain.image(k)[None]), domain.label(k)[None])
        squares.append(torch.autograd.grad(loss, parameter)[0].square())
    torch.testing.assert_close(found[name], torch.stack(squares).mean(0))
    assert {*found} == {name for name, _ in model.named_parameters()}


def test_the_distillation_is_the_divergence_of_softened_predictions():
    generator = torch.Generator().manual_seed(0)
    before, logits = (torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    p, q = torch.sigmoid(before / 2), torch.sigmoid(logits / 2)
    expected = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(distillation(before, logits, 2.0, "sigmoid"), expected)
    same = before.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distillation(before, same, 2.0, "sigmoid"), same)
    assert gradient.abs().max() < 1e-12


def test_a_joined_domain_is_of_copies():
    part = discs("A", 2)
    both = joined([part, replace(discs("B", 2), name="B")])
    both.images[0] = 0
    assert np.any(part.images[0])
