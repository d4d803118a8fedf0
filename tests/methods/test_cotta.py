import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from plain_grata import all_parameters, with_batch_statistics
from tta_bench.methods.base import Protocol
from tta_bench.methods.bn_only import BatchNormOnly
from tta_bench.methods.cotta import CoTTA, chosen
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import Draws, ImageKey

KEYS = [ImageKey(0, "B", f"image{k}") for k in range(8)]
RATE = 1e-3


@pytest.fixture
def network(small_net):
    return AdaptableNetwork(small_net)


def start(network, protocol=None, **options):
    method = CoTTA(network, replace(default_options("cotta"), **{"learning_rate": RATE, **options}), protocol)
    method.start(1)
    return method


def run(method, images):
    return [method.step(images[k : k + 1], KEYS[k : k + 1]) for k in range(len(images))]


def mean_over_views(model, x):
    p = sum(torch.rot90(torch.sigmoid(model(torch.rot90(x, k, (2, 3)))), -k, (2, 3)) for k in range(4))
    return (p + sum(torch.sigmoid(model(x.flip(d))).flip(d) for d in (2, 3))) / 6


def plain_cotta(model, images, *, momentum, restore, confidence):
    """Three torch models, the way the authors' code is organised; yields loss, confidence and logits per image."""
    student = with_batch_statistics(model).requires_grad_()
    teacher, anchor = copy.deepcopy(student), copy.deepcopy(student)
    optimizer = torch.optim.Adam(all_parameters(student), lr=RATE)
    for k, x in enumerate(images):
        with torch.no_grad():
            p = torch.sigmoid(anchor(x))
            sure = torch.maximum(p, 1 - p).mean()
            target = torch.sigmoid(teacher(x)) if sure >= confidence else mean_over_views(teacher, x)
        loss = F.binary_cross_entropy_with_logits(student(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                t.copy_(momentum * t + (1 - momentum) * s)
            flat, source = (torch.nn.utils.parameters_to_vector(all_parameters(m)) for m in (student, anchor))
            places = chosen(len(flat), restore, Draws(KEYS[k : k + 1]).generators("stochastic restore")[0])
            flat[places] = source[places]
            torch.nn.utils.vector_to_parameters(flat, all_parameters(student))
            yield loss.item(), sure.item(), teacher(x)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"teacher_momentum": 0.5, "restore": 0.2},
        {
            "teacher_momentum": 0.5,
            "restore": 0.1,
            "confidence": 0.596,
        },
        {"teacher_momentum": 0.0, "restore": 0.0, "confidence": 0.596},
    ],
)
def test_cotta_equals_three_torch_models(small_net, network, images, options):
    # Of the four confidences, from 0.592 to 0.597, the first two are below 0.596 and the others above.
    defaults = {"momentum": 0.999, "restore": 0.01, "confidence": 1.0}
    plain = defaults | {name.removeprefix("teacher_"): value for name, value in options.items()}
    results = run(start(network, **options), images[:4])
    for result, (loss, confidence, logits) in zip(
        results, plain_cotta(small_net, images[:4].split(1), **plain), strict=True
    ):
        assert result.diagnostics["loss_consistency"][0] == pytest.approx(loss, abs=1e-9)
        assert result.diagnostics["confidence"][0] == pytest.approx(confidence, abs=1e-12)
        torch.testing.assert_close(result.logits, logits, rtol=0, atol=1e-7)


def gradient_of_first_image(network, image, **options):
    """A step of plain gradient descent at rate 1 from the source model."""
    method = start(network, optimizer="sgd", learning_rate=1.0, restore=0.0, **options)
    run(method, image)
    return method.source_theta - method.theta(1)[0]


def test_without_views_student_and_teacher_agree_at_the_first_image_k1(network, images):
    assert gradient_of_first_image(network, images[:1], confidence=0.0).abs().max() < 1e-15
    assert gradient_of_first_image(network, images[:1]).abs().max() > 1e-5
    method = start(network, confidence=0.0, restore=0.0)  # with Adam, which could blow up rounding
    run(method, images[:1])
    torch.testing.assert_close(method.theta(1)[0], method.source_theta, rtol=0, atol=1e-9)


def test_the_student_is_restored_entirely_or_not_at_all_k2(network, images):
    entirely = start(network, restore=1.0)
    for k in range(3):
        run(entirely, images[k : k + 1])
        assert torch.equal(entirely.theta(1)[0], entirely.source_theta)
    assert not torch.equal(entirely.teacher[0], entirely.source_theta)
    never = start(network, restore=0.0)
    run(never, images[:1])
    has_gradient = gradient_of_first_image(network, images[:1]).abs() > 1e-9
    assert has_gradient.sum() > 10_000
    assert (never.theta(1)[0] != never.source_theta)[has_gradient].all()


@torch.no_grad()
def test_the_teacher_is_a_moving_average_of_the_student_k3(network, images):
    method = start(network, learning_rate=0.0, restore=0.0)
    method.teacher.fill_(1)
    method.state.theta.zero_()
    assert not method.adapt(images[:1], Draws(KEYS[:1]))["skipped"].any()
    torch.testing.assert_close(method.teacher, torch.full_like(method.teacher, 0.999), rtol=0, atol=1e-12)
    assert not method.theta(1).any()


def test_a_momentum_of_one_keeps_the_teacher_at_the_source_k4(network, images):
    method = start(network, teacher_momentum=1.0)
    control = BatchNormOnly(network)
    control.start(1)
    for result, expected in zip(run(method, images[:3]), run(control, images[:3]), strict=True):
        torch.testing.assert_close(result.logits, expected.logits, rtol=0, atol=1e-12)
    assert torch.equal(method.teacher[0], method.source_theta)
    assert not torch.equal(method.theta(1)[0], method.source_theta)


@pytest.mark.parametrize("restore", [0.01, 0.3])
def test_the_restored_fraction_is_the_probability_k5(network, images, restore):
    moved, method = start(network, restore=0.0), start(network, restore=restore)
    run(moved, images[:1])
    run(method, images[:1])
    changed = moved.theta(1)[0] != moved.source_theta
    restored = method.theta(1)[0] == method.source_theta
    kept = ~restored
    assert torch.equal(method.theta(1)[0][kept], moved.theta(1)[0][kept])
    count = int(changed.sum())
    sigma = (restore * (1 - restore) / count) ** 0.5
    assert float(restored[changed].double().mean()) == pytest.approx(restore, abs=3 * sigma)


def test_source_model_and_anchor_are_bit_identical_at_the_end_k6(network, images):
    before = copy.deepcopy(network.state_dict())
    method = start(network, teacher_momentum=0.5)
    run(method, images[:3])
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(method.source_theta, method._source)
    again = start(network, learning_rate=0.0)
    first, after = (run(m, images[:1])[0].diagnostics["confidence"] for m in (again, method))
    assert first == after


def test_a_confident_source_model_switches_the_views_off(network, images):
    confidence = run(start(network), images[:1])[0].diagnostics["confidence"][0]
    assert 0.5 < confidence < 1
    plain = gradient_of_first_image(network, images[:1], confidence=confidence - 1e-6)
    averaged = gradient_of_first_image(network, images[:1], confidence=confidence + 1e-6)
    assert plain.abs().max() < 1e-15
    assert averaged.abs().max() > 1e-5


def test_every_stream_chooses_its_own_target_and_its_own_places(network, images):
    sure = [run(start(network), images[k : k + 1])[0].diagnostics["confidence"][0] for k in range(2)]
    options = {"confidence": sum(sure) / 2, "restore": 0.1}
    together = CoTTA(network, replace(default_options("cotta"), learning_rate=RATE, **options))
    together.start(2)
    keys = [ImageKey(0, domain, "image0") for domain in "BC"]
    together.step(images[:2], keys)
    restored = together.theta(2) == together.source_theta
    assert not torch.equal(restored[0], restored[1])
    for row in range(2):
        alone = start(network, **options)
        alone.step(images[row : row + 1], keys[row : row + 1])
        torch.testing.assert_close(together.theta(2)[row], alone.theta(1)[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(together.teacher[row], alone.teacher[0], rtol=0, atol=1e-12)


def test_the_official_preset():
    options = default_options("cotta", preset="official")
    assert options == replace(default_options("cotta"), learning_rate=1e-3, confidence=0.92)


def test_an_image_that_is_not_finite_moves_neither_student_nor_teacher(network, images):
    method = start(network, teacher_momentum=0.5, restore=0.5)
    run(method, images[:1])
    theta, teacher = method.theta(1).clone(), method.teacher.clone()
    result = method.step(torch.full_like(images[:1], float("nan")), KEYS[1:2])
    assert result.diagnostics["skipped"] == [True]
    assert torch.equal(method.theta(1), theta)
    assert torch.equal(method.teacher, teacher)


def test_a_prediction_before_the_update_is_that_of_the_present_teacher(network, images):
    before = run(start(network, Protocol(predict="before"), teacher_momentum=0.5), images[:2])
    after = run(start(network, teacher_momentum=0.5), images[:2])
    torch.testing.assert_close(before[0].logits, network(images[:1], network.source_theta[None]), rtol=0, atol=1e-12)
    assert (before[1].logits - after[1].logits).abs().max() > 1e-4


def test_the_description_counts_all_parameters(small_net, network):
    method = start(network)
    total, affine = sum(p.numel() for p in all_parameters(small_net)), network.source_theta.numel()
    assert method.source_theta.shape == (total,)
    assert f"{affine:,} affine scalars, {total - affine:,} other parameters" in method.describe()


def generator():
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("probability", [0.001, 0.01, 0.5, 0.95])
def test_indices_are_chosen_with_their_probability_independently(probability):
    count = 400_000
    indices = chosen(count, probability, generator())
    taken = torch.zeros(count, dtype=torch.float64).index_fill_(0, indices, 1)
    assert (indices.diff() > 0).all()
    assert float(taken.mean()) == pytest.approx(probability, abs=4 * (probability * (1 - probability) / count) ** 0.5)
    pairs = (taken[1:] * taken[:-1]).mean()
    assert float(pairs) == pytest.approx(probability**2, abs=6 * probability / count**0.5)
    assert torch.equal(chosen(count, probability, generator()), indices)


def test_no_index_or_all_indices_are_chosen_at_the_ends():
    assert chosen(7, 0.0, generator()).tolist() == []
    assert chosen(7, 1.0, generator()).tolist() == list(range(7))
    assert chosen(7, 1e-12, generator()).tolist() == []
    assert chosen(7, 1 - 1e-12, generator()).tolist() == list(range(7))


def test_first_and_last_index_are_as_likely_as_any():
    shared, hits = generator(), torch.zeros(5, dtype=torch.float64)
    for _ in range(20_000):
        hits[chosen(5, 0.3, shared)] += 1
    assert torch.allclose(hits / 20_000, torch.full((5,), 0.3, dtype=torch.float64), rtol=0, atol=0.015)


@pytest.mark.parametrize("name", ["teacher_momentum", "restore", "confidence"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_impossible_options_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        replace(default_options("cotta"), **{name: value})
