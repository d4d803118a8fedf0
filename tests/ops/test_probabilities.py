"""The laws of logits as probabilities: by hand, against torch's distributions, and one activation against the other."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence

from tta_bench.ops.probabilities import cross_entropies, entropies, most_entropy, probabilities


def drawn(*shape, scale=3.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_by_hand():
    logits = torch.tensor([0.0, math.log(2), math.log(5)]).double()[:, None, None]  # softmax: 1/8, 1/4, 5/8
    target = torch.tensor([0.5, 0.5, 0.0]).double()[:, None, None]
    assert probabilities(logits, "softmax").flatten().tolist() == pytest.approx([1 / 8, 1 / 4, 5 / 8])
    assert probabilities(logits, "sigmoid").flatten().tolist() == pytest.approx([1 / 2, 2 / 3, 5 / 6])
    assert entropies(logits, "softmax").item() == pytest.approx(0.9002561)
    assert entropies(logits, "sigmoid").flatten().tolist() == pytest.approx([0.6931472, 0.6365142, 0.4505612])
    assert cross_entropies(logits, target, "softmax").item() == pytest.approx(2.5 * math.log(2))
    assert most_entropy(3, "sigmoid") == math.log(2)
    assert entropies(torch.zeros(3, 1, 1), "softmax").item() == pytest.approx(most_entropy(3, "softmax"))


def test_as_torch_s_distributions():
    logits, others = drawn(2, 3, 4, 4, 4), drawn(2, 3, 4, 4, 4, scale=1.0)
    softmax, other = (Categorical(logits=each.movedim(-3, -1)) for each in (logits, others))
    torch.testing.assert_close(entropies(logits, "softmax").squeeze(-3), softmax.entropy())
    torch.testing.assert_close(entropies(logits, "sigmoid"), Bernoulli(logits=logits).entropy())
    crossed = cross_entropies(logits, probabilities(others, "softmax"), "softmax").squeeze(-3)
    torch.testing.assert_close(crossed, other.entropy() + kl_divergence(other, softmax))
    torch.testing.assert_close(probabilities(logits, "softmax").sum(-3), torch.ones(2, 3, 4, 4).double())


def test_two_exclusive_classes_are_one_sigmoid():
    one, target = drawn(2, 1, 4, 4), torch.sigmoid(drawn(2, 1, 4, 4).flip(0))
    pair, targets = torch.cat([0 * one, one], 1), torch.cat([1 - target, target], 1)
    torch.testing.assert_close(probabilities(pair, "softmax")[:, 1:], probabilities(one, "sigmoid"))
    torch.testing.assert_close(entropies(pair, "softmax"), entropies(one, "sigmoid"))
    torch.testing.assert_close(cross_entropies(pair, targets, "softmax"), cross_entropies(one, target, "sigmoid"))
    assert most_entropy(2, "softmax") == most_entropy(2, "sigmoid")


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_large_logits_have_a_finite_entropy_and_slope(activation):
    logits = torch.tensor([-1e4, 0.0, 1e4])[:, None, None].requires_grad_()
    (slope,) = torch.autograd.grad(entropies(logits, activation).sum(), logits)
    assert entropies(logits, activation).isfinite().all()
    assert slope.isfinite().all()
