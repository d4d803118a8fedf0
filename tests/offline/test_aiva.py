"""AIVA's clusters, their matching and the alignment loss, against brute force and the paper's rules."""

import copy
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from test_stage import tiny_options

from discs import discs
from tta_bench.offline import aiva
from tta_bench.offline.access import Access, Grounds
from tta_bench.offline.base import SYSTEMS
from tta_bench.offline.clusters import (
    alignment,
    embedded,
    k_means,
    matched,
    means,
    neighbourhoods,
    principal_components,
)
from tta_bench.ops.preprocessing import PAPER


def points(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blobs(seed, k=4, each=12, apart=20.0):
    """Points around ``k`` distant corners, and the corner of each."""
    labels = torch.arange(k).repeat_interleave(each)
    return apart * torch.eye(6, dtype=torch.float64)[labels] + points(seed, k * each, 6), labels


@pytest.mark.parametrize("seed", range(5))
def test_the_matching_is_the_best_of_all(seed):
    target, source = points(seed, 5, 3), points(seed + 100, 5, 3)
    cost = ((target[:, None] - source) ** 2).sum(-1)
    costs = {p: sum(cost[i, j].item() for i, j in enumerate(p)) for p in permutations(range(5))}
    found = tuple(matched(target, source).tolist())
    assert costs[found] == pytest.approx(min(costs.values()))
    assert costs[found] <= costs[tuple(range(5))]


def test_principal_components_are_those_of_a_decomposition():
    values = points(0, 9, 40)
    centred = values - values.mean(0)
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    found = principal_components(values, 4)
    assert torch.allclose(found.abs(), (left * sizes)[:, :4].abs(), atol=1e-8)
    assert (found.gather(0, found.abs().argmax(0, keepdim=True)) > 0).all()
    assert principal_components(values, 100).shape == (9, 8)


def test_neighbourhoods_are_probabilities_and_the_embedding_keeps_blobs_together():
    values, labels = blobs(0)
    joint = neighbourhoods(values, 5.0)
    assert torch.allclose(joint, joint.T)
    assert joint.sum().item() == pytest.approx(1.0)
    assert joint.diagonal().abs().max() == 0
    regular = torch.eye(6, dtype=torch.float64)  # all others are equally near
    assert torch.allclose(neighbourhoods(regular, 3.0)[~regular.bool()], torch.tensor(1 / 30).double())
    plane = embedded(values, 8.0)
    assert plane.shape == (48, 2)
    assert torch.equal(plane, embedded(values, 8.0))
    apart = torch.cdist(plane, plane)
    same = labels[:, None] == labels
    assert apart[same].max() < apart[~same].min()
    clusters, _ = k_means(plane, 4, torch.Generator().manual_seed(0))
    assert len({(int(c), int(b)) for c, b in zip(clusters, labels, strict=True)}) == 4


def test_k_means_is_a_fixed_point_that_covers_every_point_with_enough_clusters():
    values = points(3, 30, 2)
    clusters, centres = k_means(values, 5, torch.Generator().manual_seed(0))
    assert torch.allclose(means(values, clusters, centres), centres)
    assert torch.equal(torch.cdist(values, centres).argmin(1), clusters)
    same = torch.zeros(6, 2, dtype=torch.float64)
    assert k_means(same, 3, torch.Generator().manual_seed(0))[1].abs().max() == 0


def test_sites_that_differ_by_an_offset_are_matched_by_content():
    source, labels = blobs(0)
    target = source[torch.randperm(48, generator=torch.Generator().manual_seed(4))] + 3.0
    content = ((target - 3.0)[:, None] - source[None]).abs().sum(-1).argmin(1)
    of_source, source_centres = k_means(source, 4, torch.Generator().manual_seed(1))
    of_target, target_centres = k_means(target, 4, torch.Generator().manual_seed(2))
    assert torch.equal(matched(target_centres, source_centres)[of_target], of_source[content])
    assert len({*labels.tolist()}) == len({*of_source.tolist()})


def test_the_alignment_is_of_the_clusters_that_are_there():
    centres = points(0, 3, 4)
    features = points(1, 5, 4).requires_grad_()
    clusters = torch.tensor([0, 0, 2, 2, 2])
    expected = sum(((features[clusters == k].mean(0) - centres[k]) ** 2).sum() for k in (0, 2))
    loss = alignment(features, clusters, centres)
    assert loss.item() == pytest.approx(expected.item())
    loss.backward()
    assert features.grad[0].equal(features.grad[1])
    far = centres.clone()
    far[1] += 1e6
    assert alignment(features, clusters, far).item() == pytest.approx(expected.item())


def system_of(model, count=6, **changes):
    kind = SYSTEMS.get("aiva")
    grounds = Grounds(discs("target", count), range(count), 0, discs("source", count, 60), PAPER, 0)
    options = replace(tiny_options("aiva"), clusters=2, batch_size=3, source_batch_size=3, **changes)
    return kind(copy.deepcopy(model), Access(kind.card, grounds), options, 0)


def test_the_alignment_moves_the_encoder_alone(model):
    system = system_of(model, weight=1.0)
    system.cluster(0)
    control = system_of(model, weight=0.0)
    control.cluster(0)
    gradients = []
    for each in (system, control):
        each.model.train()
        each.loss([0, 1, 2], torch.Generator().manual_seed(0)).backward()
        gradients.append({name: parameter.grad for name, parameter in each.model.named_parameters()})
    moved = {name.split(".")[0] for name in gradients[0] if not torch.equal(gradients[0][name], gradients[1][name])}
    assert moved == {"encoder"}
    assert not system.centres.requires_grad


def test_the_scaled_alignment_begins_near_one_and_its_centres_stay_for_an_epoch(model, monkeypatch):
    system, scaled, centres = system_of(model, learning_rate=1e-5), [], []
    plain = aiva.alignment

    def told(features, clusters, fixed):
        value = plain(features, clusters, fixed)
        first = [*system.first, float(value)][: aiva.FIRST]
        scaled.append(float(value) * len(first) / sum(first))
        centres.append(fixed.clone())
        return value

    monkeypatch.setattr(aiva, "alignment", told)
    counted = []
    cluster = aiva.Aiva.cluster
    monkeypatch.setattr(aiva.Aiva, "cluster", lambda self, number: counted.append(number) or cluster(self, number))
    for number in range(2):
        system.epoch(number)
    assert counted == [0, 1]
    assert scaled[0] == pytest.approx(1.0)
    assert all(0.3 <= value <= 3 for value in scaled)
    steps = len(scaled) // 2
    assert all(torch.equal(centres[0], each) for each in centres[:steps])
    assert not torch.equal(centres[0], centres[steps])


def test_of_more_clusters_than_images_there_are_as_many_as_images(model):
    system = system_of(model, count=4)
    system.options = replace(system.options, clusters=12)
    system.cluster(0)
    assert len(system.centres) == 4
    assert sorted(system.clusters.tolist()) == [0, 1, 2, 3]
