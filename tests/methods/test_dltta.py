import math
from collections import deque
from dataclasses import replace

import pytest
import torch

from tta_bench.methods.base import Protocol
from tta_bench.methods.bn_only import BatchNormOnly
from tta_bench.methods.dltta import DLTTA, RATE_FUNCTIONS, discrepancy, learning_rate
from tta_bench.methods.memory_bank import MemoryBank, attention
from tta_bench.methods.options import default_options
from tta_bench.methods.tent import Tent
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import BatchStatistics
from tta_bench.ops.draws import Draws, ImageKey

KEYS = [ImageKey(0, "B", f"image{k}") for k in range(12)]
FOLLOWING = {"neighbours": 1, "rate_scale": 1.0, "largest_rate": 1.0, "optimizer": "sgd"}


@pytest.fixture(scope="module")
def network(small_net):
    return AdaptableNetwork(small_net)


def start(network, protocol=None, streams=1, **options):
    method = DLTTA(network, replace(default_options("dltta"), **options), protocol)
    method.start(streams)
    return method


def run(method, images):
    return [method.step(images[k : k + 1], KEYS[k : k + 1]) for k in range(len(images))]


def diagnostic(results, name):
    return [result.diagnostics[name][0] for result in results]


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def logits_of(probability, *shape):
    return torch.logit(torch.full(shape, probability, dtype=torch.float64))


def entries(method):
    """Keys and values in the memory of a single stream that is not full."""
    state = method.memory.state_dict()
    return [(state["_keys"][0, place], state["_values"][0, place]) for place in range(method.memory.lengths(1))]


def key_of(network, image, theta):
    return network.activations(image, theta, BatchStatistics()).bottleneck.mean(dim=(2, 3))[0]


@pytest.mark.parametrize("form", ["positive", "binary"])
def test_while_the_memory_is_small_dltta_is_tent_d1(network, images, form):
    settings = {"learning_rate": 1e-3, "entropy_form": form}
    tent, method = Tent(network, replace(default_options("tent"), **settings)), start(network, **settings, neighbours=3)
    tent.start(1)
    rates = []
    for k in range(4):
        expected, result = (m.step(images[k : k + 1], KEYS[k : k + 1]) for m in (tent, method))
        rates.append(result.diagnostics["lr"][0])
        assert (method.memory.lengths(1).item(), k) == (k, k)
        if k < 3:
            assert torch.equal(method.theta(1), tent.theta(1))
            assert torch.equal(result.logits, expected.logits)
            assert result.diagnostics["discrepancy"] == [0.0]
    assert rates[:3] == [1e-3] * 3
    assert 0 < rates[3] != 1e-3


def test_a_half_against_nine_tenths_d2():
    half, past = logits_of(0.5, 1, 2, 4, 4), logits_of(0.9, 1, 2, 4, 4)
    divergences = [a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b)) for a, b in ((0.5, 0.9), (0.9, 0.5))]
    assert divergences == pytest.approx([0.5108256, 0.3680642], abs=1e-7)
    both = discrepancy(half, past)
    assert both.item() == pytest.approx(sum(divergences) / 2, abs=1e-12)
    assert both.item() == pytest.approx(0.4394449, abs=1e-7)
    options = default_options("dltta")
    linear, exponential = (RATE_FUNCTIONS[name](both) for name in ("linear", "exponential"))
    rate = learning_rate(linear, options.rate_scale, options.largest_rate).item()
    assert rate == pytest.approx(4.394449e-4, abs=1e-10)
    assert learning_rate(exponential, options.rate_scale, math.inf).item() == pytest.approx(2.408225e-3, abs=1e-9)


def test_the_learning_rate_is_limited():
    rates = learning_rate(vector(0, 0.5, 3), scale=1e-3, largest=1e-3)
    torch.testing.assert_close(rates, vector(0, 5e-4, 1e-3), rtol=0, atol=1e-12)


def test_the_same_image_again_has_no_discrepancy_d3(network, images):
    method = start(network, learning_rate=0.0, neighbours=1)
    results = run(method, images[:1].repeat(2, 1, 1, 1))
    assert diagnostic(results, "lr") == [0, pytest.approx(0, abs=1e-15)]
    assert torch.equal(method.theta(1)[0], network.source_theta)


def test_the_official_temperature_sees_a_discrepancy_in_the_same_image_d3(network, images):
    results = run(
        start(network, learning_rate=0.0, neighbours=1, prediction_temperature=4.0), images[:1].repeat(2, 1, 1, 1)
    )
    assert diagnostic(results, "discrepancy")[1] > 1e-4
    two = torch.full((1, 2, 4, 4), 2.0, dtype=torch.float64)
    assert 2 * discrepancy(two / 4, two).item() == pytest.approx(0.3875, abs=5e-5)
    assert discrepancy(two / 2, two).item() == pytest.approx(0.0749, abs=5e-5)


def test_the_attention_of_the_worked_example_d4():
    weights = attention(vector(1, 0.9, 0.5), 0.2)
    torch.testing.assert_close(weights, vector(0.592201, 0.359188, 0.048611), rtol=0, atol=1e-6)


def test_the_memory_keeps_the_latest_twenty_d5():
    memory = MemoryBank(1, default_options("dltta").memory, torch.device("cpu"))
    for number in range(50):
        # Keys on the unit circle, so that the cosine tells how far apart two numbers are.
        key = vector(math.cos(number / 50), math.sin(number / 50))
        memory.push(key[None], torch.full((1, 1, 2, 2), float(number)).double(), torch.tensor([True]))
    assert memory.lengths(1).tolist() == [20]
    oldest = memory.recall(vector(1, 0)[None], neighbours=1, temperature=0.2)
    newest = memory.recall(vector(math.cos(1), math.sin(1))[None], neighbours=1, temperature=0.2)
    assert (oldest == 30).all()
    assert (newest == 49).all()


def test_the_recalled_logits_are_the_weighted_mean_of_the_most_similar():
    memory = MemoryBank(1, 4, torch.device("cpu"))
    directions = {1.0: 1.0, 0.9: 2.0, 0.5: 3.0, -1.0: 1000.0}
    for cosine, value in directions.items():
        key = 7 * vector(cosine, math.sqrt(1 - cosine**2))  # the length does not matter
        memory.push(key[None], torch.full((1, 1, 2, 2), value, dtype=torch.float64), torch.tensor([True]))
    recalled = memory.recall(vector(2, 0)[None], neighbours=3, temperature=0.2)
    expected = 0.592201 * 1 + 0.359188 * 2 + 0.048611 * 3
    torch.testing.assert_close(recalled, torch.full((1, 1, 2, 2), expected, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("capacity", [3, 11])
def test_the_memories_of_several_streams_are_those_of_each_alone(capacity):
    """Against lists: a stream that ends, images that are not kept, and more of them than there is room for."""
    generator = torch.Generator().manual_seed(0)
    memory, plain = MemoryBank(3, capacity, torch.device("cpu")), [deque(maxlen=capacity) for _ in range(3)]
    for number in range(25):
        active = 3 if number < 18 else 2
        keys, values = (torch.randn(active, *shape, generator=generator).double() for shape in ((4,), (2, 3, 3)))
        is_kept = torch.rand(active, generator=generator) < torch.tensor([0.9, 0.6, 0.3])[:active]
        recalled = memory.recall(keys, 2, 0.2)
        assert memory.lengths(active).tolist() == [len(entries) for entries in plain[:active]]
        for row, past in enumerate(plain[:active]):
            if len(past) >= 2:
                cosines = torch.stack([torch.cosine_similarity(keys[row], key, dim=0) for key, _ in past])
                nearest = cosines.topk(2)
                weights = attention(nearest.values, 0.2)
                expected = sum(w * past[i][1] for w, i in zip(weights, nearest.indices, strict=True))
                torch.testing.assert_close(recalled[row], expected, rtol=0, atol=1e-12)
            if is_kept[row]:
                past.append((keys[row], values[row]))
        memory.push(keys, values, is_kept)


def test_the_discrepancy_is_symmetric_and_not_negative_d6():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        first, second = (3 * torch.randn(1, 2, 5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
        assert discrepancy(first, second).item() == pytest.approx(discrepancy(second, first).item(), abs=1e-15)
        assert discrepancy(first, second) > 0
        assert discrepancy(first, first) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_discrepancy_of_saturated_logits_is_finite_d7(dtype):
    high = torch.full((1, 2, 3, 3), 50.0, dtype=dtype)
    worst = math.log((1 - 1e-6) / 1e-6)
    assert discrepancy(high, -high).item() == pytest.approx(worst, rel=1e-2)
    assert discrepancy(high, high) == 0


def test_the_discrepancy_is_that_to_the_prediction_after_the_update_of_the_image_before(network, images):
    method = start(network, learning_rate=1e-3, **FOLLOWING)
    first, second = run(method, images[:2])
    updated = start(network, learning_rate=1e-3, **FOLLOWING)
    run(updated, images[:1])
    with torch.no_grad():
        present = updated.predict(images[1:2])
    expected = discrepancy(present, first.logits).item()
    assert expected > 1e-5
    assert second.diagnostics["discrepancy"][0] == pytest.approx(expected, abs=1e-12)
    assert second.diagnostics["lr"][0] == pytest.approx(expected, abs=1e-12)


def test_the_rate_scales_the_step(network, images):
    method = start(network, learning_rate=1e-3, **FOLLOWING)
    run(method, images[:1])
    before = method.theta(1).clone()
    loss = Tent(network, default_options("tent"))
    _, gradient = loss.gradient(lambda net: positive(net(images[1:2])), before)
    (result,) = [method.step(images[1:2], KEYS[1:2])]
    torch.testing.assert_close(method.theta(1), before - result.diagnostics["lr"][0] * gradient, rtol=0, atol=1e-12)


def positive(logits):
    p = torch.sigmoid(logits)
    return (-p * torch.log(p + 1e-6)).sum(1).mean()[None]


def test_the_key_is_the_mean_of_the_encoder_s_output(network, images):
    method = start(network, learning_rate=0.0, rate_scale=0.0)
    run(method, images[:2])
    (key, logits), *others = entries(method)
    torch.testing.assert_close(key, key_of(network, images[:1], method.theta(1)), rtol=0, atol=1e-12)
    assert key.shape == (24,)
    assert logits.shape == (2, 64, 64)
    assert not others


def test_several_updates_of_an_image_compare_with_the_images_before_only(network, images):
    method = start(network, Protocol(steps=3), learning_rate=1e-3, **FOLLOWING)
    results = run(method, images[:3])
    assert method.memory.lengths(1).item() == 2
    assert diagnostic(results, "lr")[0] == 1e-3  # also in the third update: nothing to compare with
    assert all(value > 1e-5 for value in diagnostic(results, "discrepancy")[1:])


def test_the_memory_does_not_depend_on_when_predictions_are_made(network, images):
    after, before = (start(network, Protocol(predict=p), **FOLLOWING) for p in ("after", "before"))
    rates = [diagnostic(run(method, images[:4]), "lr") for method in (after, before)]
    assert rates[0] == rates[1]


def test_without_discrepancy_and_warm_up_it_is_bn_only(network, images):
    method = start(network, learning_rate=0.0, rate_scale=0.0, neighbours=2)
    for result, expected in zip(run(method, images[:4]), run(BatchNormOnly(network), images[:4]), strict=True):
        torch.testing.assert_close(result.logits, expected.logits, rtol=0, atol=1e-12)


def test_the_official_memory_holds_keys_and_predictions_of_a_network_that_stays(network, images):
    method = start(network, learning_rate=1e-2, compared_network="source", **FOLLOWING)
    results = run(method, images[:4])
    with torch.no_grad():
        source = [network.activations(x, network.source_theta[None], method.statistics) for x in images[:4].split(1)]
    for k, result in enumerate(results[1:], start=1):
        expected = discrepancy(source[k].logits, source[k - 1].logits).item()
        assert result.diagnostics["discrepancy"][0] == pytest.approx(expected, abs=1e-12)
    key, logits = entries(method)[-1]
    torch.testing.assert_close(key, source[2].bottleneck.mean(dim=(2, 3))[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(logits, source[2].logits[0], rtol=0, atol=1e-12)
    assert (results[2].logits - source[2].logits).abs().max() > 1e-3


def test_the_key_is_from_before_the_update_and_the_prediction_from_after_it(network, images):
    method = start(network, learning_rate=1e-2, **FOLLOWING)
    (result, _) = run(method, images[:2])
    key, logits = entries(method)[0]
    torch.testing.assert_close(key, key_of(network, images[:1], network.source_theta[None]), rtol=0, atol=1e-12)
    assert torch.equal(logits, result.logits[0])
    assert (logits - network(images[:1], network.source_theta[None])).abs().max() > 1e-4


def test_a_skipped_image_is_not_remembered(network, images):
    method = start(network, streams=2, neighbours=1)
    faulty = images[:2].clone()
    faulty[1] = math.nan
    assert method.step(faulty, KEYS[:2]).diagnostics["skipped"] == [False, True]
    method.adapt(images[2:4], Draws(KEYS[2:4]))
    assert method.memory.lengths(2).tolist() == [1, 0]


def test_the_official_preset_warms_up_linearly_and_follows_an_exponential(network, images):
    options = default_options("dltta", preset="official")
    assert options == replace(
        default_options("dltta"),
        learning_rate=1e-3,
        optimizer="sgd",
        warmup="linear",
        prediction_temperature=4.0,
        rate_function="exponential",
        largest_rate=math.inf,
        compared_network="source",
    )
    method = DLTTA(network, options)
    method.start(1)
    results = run(method, images[:10])
    assert diagnostic(results, "lr")[:8] == pytest.approx([k * 1e-3 for k in range(8)], abs=1e-15)
    for result in results[8:]:
        known = result.diagnostics["discrepancy"][0]
        assert result.diagnostics["lr"][0] == pytest.approx(1e-3 * math.exp(2 * known), abs=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"neighbours": 0},
        {"neighbours": 21},
        {"attention_temperature": 0.0},
        {"prediction_temperature": math.inf},
        {"rate_scale": -1.0},
        {"largest_rate": math.nan},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        replace(default_options("dltta"), **options)
