import copy
from dataclasses import replace

import pytest
import torch

from plain_statistics import mixed, with_statistics
from tta_bench.methods.alpha_bn import AlphaBN
from tta_bench.methods.base import Protocol
from tta_bench.methods.bn_only import BatchNormOnly
from tta_bench.methods.diga import (
    DIGA,
    Prototypes,
    confident_sides,
    mean_features,
    prototype_distances,
)
from tta_bench.methods.no_adapt import NoAdapt
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import Draws, ImageKey
from tta_bench.ops.probabilities import logit_of_mixture

KEYS = [ImageKey(0, "B", f"image{k}") for k in range(12)]


@pytest.fixture(scope="module")
def sharp_net(small_net, images):
    """Sure of both sides of both classes, as a trained network is; the untrained one is sure of nothing."""
    model = copy.deepcopy(small_net)
    with torch.no_grad():
        logits = run(start(AdaptableNetwork(small_net), prototype_weight=0.0), images)
        model.head.bias -= logits.mean((0, 2, 3))
        model.head.weight *= 60
        model.head.bias *= 60
    return model


@pytest.fixture(scope="module")
def network(sharp_net):
    return AdaptableNetwork(sharp_net)


def start(network, protocol=None, streams=1, **options):
    method = DIGA(network, replace(default_options("diga"), **options), protocol)
    method.start(streams)
    return method


def run(method, images):
    method.start(1)
    return torch.cat([method.step(images[k : k + 1], KEYS[k : k + 1]).logits for k in range(len(images))])


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def plain_diga(model, images, options):
    """DIGA with sigmoid classes written out pixel set by pixel set, in probabilities; one image after the other."""
    model = with_statistics(model, mixed(options.source_weight, correction=0))
    running, probabilities = {}, []
    for x in images:
        features = model.decode(model.encode(x[None]))
        network = torch.sigmoid(model.classify(features))[0]
        pixels = features[0].flatten(1).T
        final = torch.empty_like(network)
        for c, p in enumerate(network.flatten(1)):
            image = {}
            for side, chosen in ((1, p >= options.confidence), (0, 1 - p >= options.confidence)):
                if chosen.any():
                    image[side] = pixels[chosen].mean(0)
                    old = running.get((c, side), image[side])
                    rate = options.prototype_rate
                    running[c, side] = (1 - rate) * old + rate * image[side]
            sets = [{side: running[c, side] for side in (0, 1) if (c, side) in running}, image]
            parts = []
            for prototypes in sets:
                if len(prototypes) == 2:
                    w = {s: torch.exp(-(pixels - v).norm(dim=1) / options.temperature) for s, v in prototypes.items()}
                    parts.append(w[1] / (w[0] + w[1]))
                else:
                    parts.append(p)
            proto = options.running_weight * parts[0] + (1 - options.running_weight) * parts[1]
            fused = options.prototype_weight * proto + (1 - options.prototype_weight) * p
            final[c] = fused.view(network.shape[1:])
        probabilities.append(final)
    return torch.stack(probabilities)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.25, "prototype_rate": 0.5}, {"confidence": 0.75}])
@torch.no_grad()
def test_it_is_the_plain_reference(sharp_net, network, images, options):
    method = start(network, **options)
    expected = plain_diga(sharp_net, images[:5], method.options)
    torch.testing.assert_close(torch.sigmoid(run(method, images[:5])), expected, rtol=0, atol=1e-9)
    assert method.running.present.all()
    no_prototypes = run(start(network, prototype_weight=0.0), images[:5])
    assert (torch.sigmoid(no_prototypes) - expected).abs().max() > 0.01


def test_without_prototypes_it_is_alpha_bn_with_the_biased_variance_bn4(network, images):
    for weight in (0.0, 0.5, 0.8, 1.0):
        out = run(start(network, prototype_weight=0.0, source_weight=weight), images[:3])
        alpha_bn = AlphaBN(network, replace(default_options("alpha_bn"), source_weight=weight, unbiased=False))
        assert (out - run(alpha_bn, images[:3])).abs().max() < 1e-9


@pytest.mark.parametrize(("weight", "control"), [(1.0, NoAdapt), (0.0, BatchNormOnly)])
def test_without_prototypes_all_weight_on_one_side_is_that_side(network, images, weight, control):
    out = run(start(network, prototype_weight=0.0, source_weight=weight), images[:3])
    assert (out - run(control(network), images[:3])).abs().max() < 1e-9


def test_the_worked_example_of_two_prototypes():
    features = torch.zeros(1, 2, 1, 1, dtype=torch.float64)
    vectors = torch.stack([vector(1, 0), vector(0, 2)])[None, None]  # foreground, background
    foreground, background = prototype_distances(features, vectors).unbind(2)
    assert torch.sigmoid(background - foreground).item() == pytest.approx(0.731059, abs=1e-6)


def test_running_prototypes_start_as_a_copy_and_then_move_by_their_rate(network, images):
    method, image = start(network), images[:1]
    for k, expected in enumerate([1.0, 0.9, 0.81]):
        # The prototypes of the image are replaced: all 1, then all 0.
        evidence = method._evidence(image)
        vectors = torch.full_like(evidence.prototypes.vectors, float(k == 0))
        present = torch.ones_like(evidence.prototypes.present)
        method._latest = image, evidence._replace(prototypes=Prototypes(vectors, present))
        method.adapt(image, Draws(KEYS[:1]))
        torch.testing.assert_close(method.running.vectors, torch.full_like(vectors, expected), rtol=0, atol=1e-12)
        assert method.running.present.all()


def test_a_side_without_a_confident_pixel_keeps_its_running_prototype(network, images):
    method, image = start(network), images[1:2]
    method.step(images[:1], KEYS[:1])
    before = method.running.vectors.clone()
    evidence = method._evidence(image)
    present = torch.tensor([[[True, True], [False, True]]])
    method._latest = image, evidence._replace(prototypes=Prototypes(evidence.prototypes.vectors, present))
    method.adapt(image, Draws(KEYS[1:2]))
    assert torch.equal((method.running.vectors != before).any(dim=3), present)


def test_prototypes_are_the_means_of_the_confident_pixels():
    features = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = 3 * torch.randn(2, 2, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits[1, 0] = -5  # no foreground
    prototypes = mean_features(features, confident_sides(logits, 0.9))
    for a in range(2):
        for c in range(2):
            p = torch.sigmoid(logits[a, c])
            for side, chosen in enumerate((p >= 0.9, p <= 0.1)):
                assert prototypes.present[a, c, side] == chosen.any()
                if chosen.any():
                    mean = features[a][:, chosen].mean(1)
                    torch.testing.assert_close(prototypes.vectors[a, c, side], mean, rtol=0, atol=1e-12)
    assert prototypes.present[1, 0].tolist() == [False, True]
    assert (prototypes.vectors[1, 0, 0] == 0).all()


def test_without_a_confident_pixel_the_network_decides(network, images):
    method = start(network, confidence=1.0)
    out = run(method, images[:3])
    assert not method.running.present.any()
    expected = run(start(network, prototype_weight=0.0), images[:3])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)


def test_history_matters_through_the_running_prototypes_only(network, images):
    stateless = start(network, running_weight=0.0)
    forwards = run(stateless, images[:4])
    torch.testing.assert_close(run(stateless, images[:4].flip(0)).flip(0), forwards, rtol=0, atol=1e-12)
    with_history = start(network)
    forwards = run(with_history, images[:4])
    assert (run(with_history, images[:4].flip(0)).flip(0) - forwards).abs().max() > 1e-3


def test_at_rate_0_the_running_prototypes_stay_those_first_seen(network, images):
    method = start(network, prototype_rate=0.0)
    method.step(images[:1], KEYS[:1])
    vectors, present = (each.clone() for each in method.running)
    method.step(images[1:2], KEYS[1:2])
    assert torch.equal(method.running.vectors[present], vectors[present])


def test_before_the_update_the_running_prototypes_are_those_of_the_images_before(network, images):
    before = start(network, Protocol(predict="before"))
    after = start(network)
    first = before.step(images[:1], KEYS[:1]).logits
    assert (first - after.step(images[:1], KEYS[:1]).logits).abs().max() > 1e-6
    assert torch.equal(before.running.vectors, after.running.vectors)
    # Without running prototypes their part falls back to the network's probability.
    alone = start(network, running_weight=0.0)
    of_image = torch.sigmoid(alone.step(images[:1], KEYS[:1]).logits)
    of_network = torch.sigmoid(run(start(network, prototype_weight=0.0), images[:1]))
    expected = 0.2 * of_image + 0.8 * of_network
    torch.testing.assert_close(torch.sigmoid(first), expected, rtol=0, atol=1e-9)


def test_streams_of_unequal_length_side_by_side_equal_one_by_one(network, images):
    streams = [images[:4], images[4:6]]
    method = start(network, streams=2)
    for k in range(4):
        active = [stream[k] for stream in streams if k < len(stream)]
        together = method.step(torch.stack(active), KEYS[: len(active)])
        for s in range(len(active)):
            expected = run(start(network), streams[s][: k + 1])[-1]
            torch.testing.assert_close(together.logits[s], expected, rtol=0, atol=1e-9)
    assert method.running.present.flatten(1).any(dim=1).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_leaves_the_running_prototypes(network, images, value):
    faulty = images[:3].clone()
    faulty[1, :, 3, 3] = value
    method = start(network)
    method.step(faulty[:1], KEYS[:1])
    before = [each.clone() for each in method.running]
    assert method.step(faulty[1:2], KEYS[1:2]).diagnostics["skipped"] == [True]
    assert all(torch.equal(a, b) for a, b in zip(before, method.running, strict=True))
    assert method.skipped == 1


def test_every_step_has_a_forward_pass_of_its_own_even_on_the_same_tensor(network, images):
    method, image = start(network), images[:1].clone()
    before = network.forwards
    first = method.step(image, KEYS[:1]).logits
    image.copy_(images[1:2])
    second = method.step(image, KEYS[1:2]).logits
    assert network.forwards - before == 2
    assert torch.equal(torch.cat([first, second]), run(start(network), images[:2]))


def test_the_mixture_is_that_of_the_probabilities():
    logits = [vector(-3, 0, 2, 40), vector(1, 0, -2, -50), vector(0.5, 0, 7, 0)]
    weights = (0.64, 0.16, 0.2)
    expected = sum(w * torch.sigmoid(z) for w, z in zip(weights, logits, strict=True))
    torch.testing.assert_close(torch.sigmoid(logit_of_mixture(logits, weights)), expected, rtol=0, atol=1e-12)


def test_the_mixture_stays_finite_and_exact_where_probabilities_round():
    z = torch.tensor([-120.0, -20.0, 20.0, 120.0])
    torch.testing.assert_close(logit_of_mixture([z, z, z], (0.64, 0.16, 0.2)), z, rtol=1e-6, atol=0)
    torch.testing.assert_close(logit_of_mixture([-z, -z, z], (0.0, 0.0, 1.0)), z, rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"source_weight": 1.1},
        {"prototype_weight": -0.1},
        {"running_weight": 2.0},
        {"confidence": 0.4},
        {"prototype_rate": -1.0},
        {"temperature": 0.0},
        {"temperature": float("inf")},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        replace(default_options("diga"), **options)
