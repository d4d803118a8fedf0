"""Grad-CL image by image: its update, written out for one image; none without a trusted pixel."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tta_bench.methods.grad_cl import GradCL
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import BatchStatistics
from tta_bench.ops.class_features import class_features, contrast
from tta_bench.ops.draws import ImageKey
from tta_bench.ops.pseudo_labels import Beliefs, trusted_labels

TURNS = [(0, None), (0, 2), (0, 3), (1, None), (2, None), (3, None)]
"""Quarter turns, then a flip: the six weak views."""


def start(network, **options):
    sure = {"threshold": 0.5, "largest_uncertainty": 0.02, "optimizer": "sgd", "learning_rate": 0.1, "lam_con": 0.5}
    method = GradCL(network, replace(default_options("grad_cl"), **{**sure, **options}))
    method.start(1)
    return method


def by_hand(network, image, theta, options):
    """Losses and the gradient of an update, with every view passed on its own."""
    spread = []
    with torch.no_grad():
        for quarters, flip in TURNS:
            view = image.rot90(quarters, (2, 3)) if flip is None else image.flip(flip)
            logits = network(view, theta, BatchStatistics())
            spread.append(logits.rot90(-quarters, (2, 3)) if flip is None else logits.flip(flip))
    logits = torch.stack(spread)
    believed = Beliefs(torch.sigmoid(logits).mean(0), torch.sigmoid(logits / options.temperature).std(0))
    theta = theta.clone().requires_grad_()
    logits, late = network.logits_and_late_map(image, theta, BatchStatistics())
    features = class_features(late, logits, options.salience)
    limits = {"threshold": options.threshold, "largest_uncertainty": options.largest_uncertainty}
    trusted = trusted_labels(believed, features.detach(), **limits)
    losses = F.binary_cross_entropy_with_logits(logits, trusted.labels.to(logits), reduction="none")
    segmentation, shared = losses[trusted.mask].mean(), contrast(features, trusted)[0]
    (gradient,) = torch.autograd.grad(segmentation + options.lam_con * shared, theta)
    return segmentation.item(), shared.item(), trusted.mask.double().mean().item(), gradient


@pytest.mark.parametrize("salience", ["channel", "pixel"])
def test_an_update_is_the_one_written_out(small_net, images, salience):
    network = AdaptableNetwork(small_net)
    method = start(network, salience=salience)
    for k in range(2):
        image, before = images[k : k + 1], method.theta(1).clone()
        segmentation, shared, part, gradient = by_hand(network, image, before, method.options)
        told = method.step(image, [ImageKey(0, "B", str(k))]).diagnostics
        assert told["loss_pseudo_labels"] == [pytest.approx(segmentation, rel=1e-9)]
        assert told["loss_contrast"] == [pytest.approx(shared, rel=1e-9)]
        assert told["trusted"] == [pytest.approx(part)]
        assert 0 < part < 1
        torch.testing.assert_close(method.theta(1), before - 0.1 * gradient, rtol=1e-9, atol=1e-12)


def test_without_a_trusted_pixel_nothing_moves_and_nothing_is_at_fault(small_net, images):
    method = start(AdaptableNetwork(small_net), optimizer="adam", learning_rate=1e-3)
    method.step(images[:1], [ImageKey(0, "B", "0")])
    kept = {key: value.clone() for key, value in method.state.state_dict().items() if torch.is_tensor(value)}
    method.options = replace(method.options, largest_uncertainty=1e-30)
    told = method.step(images[1:2], [ImageKey(0, "B", "1")]).diagnostics
    assert (told["trusted"], told["skipped"], told["loss_pseudo_labels"]) == ([0.0], [0.0], [0.0])
    assert all(torch.equal(value, method.state.state_dict()[key]) for key, value in kept.items())
