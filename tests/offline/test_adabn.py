"""AdaBN: statistics of the whole target, and nothing else."""

import copy

import pytest
import torch

from discs import discs
from tta_bench.offline.access import Access, Grounds
from tta_bench.offline.adabn import AdaBN, batch_norms, moments, pooled
from tta_bench.offline.base import SystemOptions
from tta_bench.ops.preprocessing import PAPER


def adapt(model, domain, size):
    access = Access(AdaBN.card, Grounds(domain, range(len(domain)), 0, None, PAPER, 0))
    system = AdaBN(copy.deepcopy(model), access, SystemOptions(batch_size=size), 0)
    system.epoch(0)
    return system.adapted()


@pytest.mark.parametrize("sizes", [[6], [1, 5], [2, 2, 2], [3, 1, 2]])
def test_pooled_moments_are_those_of_all_values(sizes):
    values = torch.randn(6, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3 + 7
    count, mean, variance = pooled([moments(part) for part in values.split(sizes)])
    assert count == 6 * 4 * 5
    torch.testing.assert_close(mean, values.double().mean((0, 2, 3)))
    torch.testing.assert_close(variance, values.double().var((0, 2, 3), correction=0))


def test_no_weight_changes_and_the_first_layer_has_the_statistics_of_all_images(model):
    domain, seen = discs("target", 5), []
    first = batch_norms(model)[0]
    handle = first.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].detach()))
    model(torch.stack([domain.image(index) for index in range(5)]))
    handle.remove()
    for size in (2, 5):
        adapted = adapt(model, domain, size)
        layer = batch_norms(adapted)[0]
        torch.testing.assert_close(layer.running_mean, seen[0].mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer.running_var, seen[0].var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)
        before, after = dict(model.named_parameters()), dict(adapted.named_parameters())
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert [layer.momentum for layer in batch_norms(adapted)] == [layer.momentum for layer in batch_norms(model)]
        assert not any(module.training for module in adapted.modules())


def test_in_one_batch_the_adapted_model_predicts_as_the_batch_normalised_one(model):
    domain = discs("target", 3)
    images = torch.stack([domain.image(index) for index in range(3)])
    adapted = adapt(model, domain, 3)
    by_batch = copy.deepcopy(model)
    for layer in batch_norms(by_batch):
        layer.train()
    with torch.no_grad():
        torch.testing.assert_close(adapted(images), by_batch(images), rtol=1e-3, atol=1e-3)
        assert not torch.allclose(adapted(images), model(images), atol=1e-2)


def test_what_it_measures_does_not_depend_on_the_statistics_that_it_replaces(model):
    """Twice is once."""
    domain = discs("target", 4)
    once = adapt(model, domain, 2)
    twice = adapt(once, domain, 2)
    values = {key: value for key, value in once.state_dict().items() if value.is_floating_point()}  # counts of batches
    assert all(torch.equal(value, twice.state_dict()[key]) for key, value in values.items())
