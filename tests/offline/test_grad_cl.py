"""Grad-CL's class-specific features and contrast, against numbers worked out by hand; without them it is DPL."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_dpl import system_of
from test_stage import options_of

from small_networks import build
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.late_map import late_map
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.networks.unet import UNet
from tta_bench.models.normalisation import SourceStatistics
from tta_bench.ops.class_features import class_features, class_gradients, class_scores, contrast
from tta_bench.ops.probabilities import log_odds
from tta_bench.ops.pseudo_labels import Trusted, masked_cross_entropy, prototype_labels

SHAPE = (2, 2, 8, 8)

THRESHOLD = 0.5
"""An untrained network is not surer."""


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_by_the_input_of_the_classifier_a_gradient_is_its_weight_where_the_class_is():
    weight, features = drawn(2, 5), drawn(2, 5, 8, 8, seed=1).requires_grad_()
    logits = torch.einsum("cf,nfhw->nchw", weight, features)
    expected = weight[None, :, :, None, None] * (logits > 0)[:, :, None]
    torch.testing.assert_close(class_gradients(features, logits), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("salience", ["channel", "pixel"])
def test_class_features_are_what_a_plain_network_gives_pixel_by_pixel(salience):
    first, second = drawn(3, 4), drawn(2, 3, seed=1)
    features = drawn(2, 4, 8, 8, seed=2).requires_grad_()
    hidden = torch.einsum("gf,nfhw->nghw", first, features)
    logits = torch.einsum("cg,nghw->nchw", second, hidden.tanh())
    slope = 1 - hidden.detach().tanh() ** 2
    gradient = torch.einsum("cg,nghw,gf->ncfhw", second, slope, first) * (logits.detach() > 0)[:, :, None]
    weight = gradient.mean((-2, -1), keepdim=True) if salience == "channel" else gradient
    made = class_features(features, logits, salience)
    torch.testing.assert_close(made, F.relu(weight * features[:, None]))
    assert made.min() >= 0
    assert made.max() > 0
    (flowing,) = torch.autograd.grad(made.sum(), features)
    torch.testing.assert_close(flowing, (weight * (weight * features[:, None] > 0)).sum(1))


def test_the_score_of_a_class_that_is_nowhere_is_weighted_by_its_probability():
    odds = torch.tensor([[[[2.0, -1.0]], [[-3.0, -1.0]]]])
    expected = [2.0, -3 * torch.sigmoid(torch.tensor(-3.0)) - torch.sigmoid(torch.tensor(-1.0))]
    torch.testing.assert_close(class_scores(odds), torch.tensor([expected]))


def nested(mask=True):
    """A disc on the left half, a cup on the left quarter; everything trusted."""
    labels = torch.zeros(SHAPE, dtype=torch.bool)
    labels[:, 0, :, :4] = True
    labels[:, 1, :, :2] = True
    return Trusted(labels, torch.full(SHAPE, mask))


def test_the_contrast_is_the_cosine_of_rim_and_cup():
    features = torch.zeros(2, 2, 3, 8, 8)
    features[:, 0, 0, :, :2], features[:, 0, 1, :, 2:4] = 5.0, 1.0  # of the disc: another one in the cup
    features[0, 1, 1, :, :2], features[1, 1, 2, :, :2] = 3.0, 3.0
    assert contrast(features, nested()).tolist() == [1.0, 0.0]
    swapped = Trusted(*(each.flip(1) for each in nested()))
    assert contrast(features.flip(1), swapped).tolist() == [0.0, 0.0], "a cup around the disc leaves no cup"
    logits = drawn(*SHAPE)
    assert masked_cross_entropy(logits.flip(1), *swapped).item() == pytest.approx(
        masked_cross_entropy(logits, *nested()).item(), abs=1e-12
    )
    assert contrast(features, nested(mask=False)).tolist() == [0.0, 0.0]
    assert contrast(features[:, :1], Trusted(*(each[:, :1] for each in nested()))).tolist() == [0.0, 0.0]
    coarse = contrast(features[..., ::2, ::2], nested())
    assert coarse.tolist() == [1.0, 0.0]


def test_of_the_paper_s_network_the_map_is_the_output_of_up4_and_wrapped_it_is_the_same():
    model = build(ResUNet, 2).float()
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    outputs = []
    handle = model.up4.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad(), late_map(model) as found:
        logits = model(images)
    handle.remove()
    assert torch.equal(found.take(), outputs[0])
    assert not any(module._forward_hooks for module in model.modules())
    network = AdaptableNetwork(model)
    with torch.no_grad():
        same = network.logits_and_late_map(images, network.source_theta[None], SourceStatistics())
    torch.testing.assert_close(same, (logits, found.take()), rtol=1e-4, atol=1e-5)


def test_odds_of_a_softmax():
    logits = drawn(2, 3, 4, 4)
    torch.testing.assert_close(torch.sigmoid(log_odds(logits, "softmax")), torch.softmax(logits, 1)[:, 1:])
    assert torch.equal(log_odds(logits, "sigmoid"), logits)


def test_with_plain_features_and_without_contrast_it_is_dpl_to_the_last_bit(model):
    both = {"learning_rate": 0.01, "threshold": THRESHOLD}
    dpl = system_of("dpl", model, **both)
    plain = system_of("grad_cl", model, **both, features="plain", lam_con=0.0)
    of_classes = system_of("grad_cl", model, **both)
    for system in (dpl, plain, of_classes):
        assert 0 < system.trusted([0, 1, 2]).mask.double().mean() < 1
    for expected, made in zip(dpl.trusted([0, 1, 2]), plain.trusted([0, 1, 2]), strict=True):
        assert torch.equal(expected, made)
    assert torch.equal(dpl.labels, of_classes.labels)
    assert not torch.equal(dpl.masks, of_classes.masks)
    assert dpl.epoch(0) == plain.epoch(0)
    assert all(torch.equal(value, plain.model.state_dict()[key]) for key, value in dpl.model.state_dict().items())


def test_plain_features_have_nothing_to_keep_apart():
    with pytest.raises(Exception, match="set lam_con=0"):
        options_of("grad_cl", features="plain")


@pytest.mark.parametrize("salience", ["channel", "pixel"])
def test_without_dropout_a_pixel_is_trusted_where_the_prototypes_of_its_class_agree(model, salience):
    sure = {"dropout_bottleneck": 0.0, "dropout_head": 0.0, "batch_size": 3, "threshold": THRESHOLD}
    system = system_of("grad_cl", model, **sure, features=salience)
    images = system.access.target_images.batch([0, 1, 2])
    with late_map(model) as found:
        logits = model(images)
    features = class_features(found.take(), logits, salience).detach()
    probability = torch.sigmoid(logits.detach())
    labels = probability > THRESHOLD
    trusted = system.trusted([0, 1, 2])
    assert torch.equal(trusted.labels, labels)
    agreed = prototype_labels(features, labels, torch.ones_like(labels), probability)
    assert ((trusted.mask == (labels == agreed)).double().mean() > 0.999).item()  # means over passes round
    assert 0 < trusted.mask.double().mean() < 1


def test_an_image_without_any_class_is_learnt_from_as_background(model):
    nothing = copy.deepcopy(model)
    torch.nn.init.constant_(nothing.head[0].bias, -8.0)
    system = system_of("grad_cl", nothing, learning_rate=0.01)
    trusted = system.trusted([0, 1, 2])
    assert not trusted.labels.any()
    assert trusted.mask.all()
    told = system.epoch(0)
    assert 0 < told["loss"] < 0.01
    assert all(value.isfinite().all() for value in system.model.state_dict().values())


def test_the_contrast_brings_classes_apart():
    """More steps on the contrast alone leave less of it; a network of the usual width has some to begin with."""
    model = build(UNet, "resnet18", 2, decoder_channels=(16, 16, 8, 8, 8)).float()
    system = system_of("grad_cl", model, learning_rate=1e-3, lam_con=1.0)
    images = system.access.target_images.batch([0, 1])
    parameters = [each for each in system.model.parameters() if each.requires_grad]
    values = []
    for _ in range(8):
        with late_map(system.model) as found:
            logits = system.model(images)
        value = contrast(class_features(found.take(), logits, "channel"), nested_at(logits)).mean()
        values.append(value.item())
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
        with torch.no_grad():
            for each, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    each.sub_(1e-2 * gradient.sign() * each.abs().mean())
    assert 0 < values[-1] < values[0] - 0.01


def nested_at(logits):
    labels = torch.zeros(logits.shape, dtype=torch.bool)
    labels[:, 0, 16:48, 16:48] = True
    labels[:, 1, 24:40, 24:40] = True
    return Trusted(labels, torch.ones_like(labels))
