import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tta_bench.methods.base import Protocol
from tta_bench.methods.options import default_options
from tta_bench.methods.vptta import VPTTA, image_weight, low_frequencies, prompted, window_start
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import Draws, ImageKey

KEYS = [ImageKey(0, "B", f"image{k}") for k in range(12)]


@pytest.fixture(scope="module")
def network(small_net):
    return AdaptableNetwork(small_net)


def start(network, streams=1, protocol=None, **options):
    method = VPTTA(network, replace(default_options("vptta"), **options), protocol)
    method.start(streams)
    return method


def run(method, images):
    return [method.step(images[k : k + 1], KEYS[k : k + 1]) for k in range(len(images))]


def official_prompt(x, prompt):
    """One image ``[1, 3, H, W]`` the long way: amplitude and phase, shifted spectrum, padded prompt."""
    size, side = prompt.shape[-1], x.shape[-1]
    padding = (side - size) // 2
    spectrum = torch.fft.fft2(x)
    amplitude = torch.fft.fftshift(spectrum.abs(), dim=(-2, -1))
    rest = side - padding - size
    amplitude = torch.fft.ifftshift(
        amplitude * nn.functional.pad(prompt, [padding, rest, padding, rest], value=1.0), dim=(-2, -1)
    )
    return torch.fft.ifft2(torch.polar(amplitude, spectrum.angle())).real


def low_amplitudes(x, size):
    shifted = torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1)).abs()
    start = (x.shape[-1] - size) // 2
    return shifted[..., start : start + size, start : start + size].flatten()


def plain_vptta(model, images, options):
    """The method written out for one stream with torch's own layers; yields losses, prompts and logits."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    losses, number = [], 0

    def forward(layer, x):
        m = 1 / (math.sqrt(number) / options.warm_up + 1)
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=1)
        mixed_mean = m * mean.detach() + (1 - m) * layer.running_mean
        mixed_variance = m * variance.detach() + (1 - m) * layer.running_var
        losses.append((mixed_mean - mean).abs().mean() + (mixed_variance.sqrt() - variance.sqrt()).abs().mean())
        return nn.functional.batch_norm(x, mixed_mean, mixed_variance, layer.weight, layer.bias, eps=layer.eps)

    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = lambda x, layer=layer: forward(layer, x)
    size = options.prompt_size
    prompt = nn.Parameter(torch.ones(1, 3, size, size, dtype=torch.float64))
    optimizer = torch.optim.Adam([prompt], lr=options.learning_rate, betas=options.betas)
    memory = []
    for x in images.split(1):
        number += 1
        key, initial = low_amplitudes(x, size), torch.ones_like(prompt)
        if len(memory) >= options.neighbours:
            cosines = torch.stack([key @ past / key.norm() / past.norm() for past, _ in memory])
            nearest = cosines.argsort(descending=True)[: options.neighbours]
            weights = torch.exp(cosines[nearest] / options.attention_temperature)
            initial = sum(w * memory[i][1] for w, i in zip(weights / weights.sum(), nearest, strict=True))
        with torch.no_grad():
            prompt.copy_(initial)
        losses.clear()
        model(official_prompt(x, prompt))
        loss = sum(losses) / len(losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            logits = model(official_prompt(x, prompt))
        memory = [*memory, (key, prompt.detach().clone())][-options.memory :]
        yield loss.item(), prompt.detach().flatten(), logits


# The prompt


def test_a_prompt_of_ones_reproduces_the_image_v1(images):
    ones = torch.ones(3, 75, dtype=torch.float64)
    assert torch.equal(prompted(images[:3], ones), images[:3])
    torch.testing.assert_close(official_prompt(images[:1], ones[:1].view(1, 3, 5, 5)), images[:1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_prompt_scales_amplitudes_and_keeps_phases(images, size):
    prompts = 0.5 + torch.rand(2, 3 * size**2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = images[:2].clone()
    out = prompted(images[:2], prompts)
    for row in range(2):
        expected = official_prompt(images[row : row + 1], prompts[row].view(1, 3, size, size))
        torch.testing.assert_close(out[row], expected[0], rtol=0, atol=1e-12)
    assert torch.equal(images[:2], before)


def test_the_prompt_has_three_times_5_by_5_scalars_and_starts_at_253_of_512_v3(network):
    assert start(network, 2).theta(2).shape == (2, 3 * 5 * 5)
    assert window_start(512, 5) == 253
    rows = torch.arange(512, dtype=torch.float64)[:, None]
    for frequency, is_scaled in [(-4, False), (-3, True), (0, True), (1, True), (2, False)]:
        wave = torch.exp(2j * math.pi * frequency * rows / 512).expand(1, 3, 512, 512)
        assert (low_frequencies(wave, 5).abs().max() > 1e4) == is_scaled, frequency


def test_the_gradient_in_the_prompt_is_that_of_finite_differences(images):
    x = images[:2, :, ::4, ::4].contiguous()
    prompts = torch.ones(2, 27, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: prompted(x, p), (prompts,))


# The statistics


def test_the_image_s_weight_falls_with_the_number_of_images_v2():
    weights = image_weight(torch.tensor([0, 1, 25, 100, 650]), 5.0)
    expected = torch.tensor([1.0, 0.8333, 0.5, 0.3333, 0.1640], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=0, atol=5e-5)


# The method


@pytest.mark.parametrize("options", [{}, {"memory": 3, "neighbours": 2, "prompt_size": 3}])
def test_vptta_is_the_method_written_out(small_net, network, images, options):
    method = start(network, **options)
    records = plain_vptta(small_net, images[:6], method.options)
    for k, (loss, prompt, logits) in enumerate(records):
        result = method.step(images[k : k + 1], KEYS[k : k + 1])
        assert result.diagnostics["loss_alignment"][0] == pytest.approx(loss, abs=1e-9)
        torch.testing.assert_close(method.theta(1)[0], prompt, rtol=0, atol=1e-9)
        torch.testing.assert_close(result.logits, logits, rtol=0, atol=1e-8)


def test_the_network_s_parameters_and_source_statistics_stay_v4(network, images):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    method = start(network)
    run(method, images[:3])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert (method.theta(1) != 1).all()


def test_with_fewer_than_16_images_in_the_memory_the_prompt_starts_at_ones_v5(network, images, monkeypatch):
    stream = images.repeat(2, 1, 1, 1)[:18] + torch.linspace(0, 0.1, 18, dtype=torch.float64).view(-1, 1, 1, 1)
    method, starts = start(network, prompt_size=2), []
    begin = VPTTA._begin

    def record(method, image):
        begin(method, image)
        starts.append(method.theta(1)[0].clone())

    monkeypatch.setattr(VPTTA, "_begin", record)
    for k in range(18):
        method.step(stream[k : k + 1], [ImageKey(0, "B", f"image{k}")])
    assert [bool((prompt == 1).all()) for prompt in starts] == [True] * 16 + [False] * 2
    assert method.memory.lengths(1).item() == 17  # the last image enters when the next one comes


def test_the_memory_keeps_the_latest_40_images(network, images):
    method = start(network, prompt_size=1)
    for k in range(43):
        method._begin(images[k % 12 : k % 12 + 1])
        method._is_counted.fill_(True)
    assert method.memory.lengths(1).item() == 40


@pytest.mark.parametrize("steps", [1, 3])
def test_an_image_counts_once_whatever_the_number_of_updates_v6(network, images, steps):
    method = start(network, protocol=Protocol(steps=steps), memory=2, neighbours=1)
    for k in range(3):
        method.step(images[k : k + 1], KEYS[k : k + 1])
        assert method.seen.tolist() == [k + 1]
        assert method.memory.lengths(1).item() == k


def test_an_image_that_is_not_finite_is_neither_counted_nor_remembered(network, images):
    stream = images[:3].clone()
    stream[1, 0, 3, 3] = float("inf")
    method = start(network, memory=2, neighbours=1)
    run(method, stream)
    assert method.seen.tolist() == [2]
    assert method.memory.lengths(1).item() == 1
    assert method.theta(1).isfinite().all()


def test_the_next_prompt_starts_from_that_of_the_most_similar_image(network, images):
    method = start(network, neighbours=1)
    prompts = []
    for k in range(3):
        method.step(images[k : k + 1], KEYS[k : k + 1])
        prompts.append(method.theta(1)[0].clone())
    method._begin(images[1:2])
    torch.testing.assert_close(method.theta(1)[0], prompts[1], rtol=0, atol=1e-12)


def test_a_small_step_lowers_the_misalignment_of_the_same_image(network, images):
    method = start(network, learning_rate=1e-4)
    first, second = (method.adapt(images[:1], Draws(KEYS[:1], k))["loss_alignment"].item() for k in range(2))
    assert second < first


def test_the_description_counts_the_prompt(network):
    text = start(network).describe()
    assert "75 scalars" in text
    assert "9 normalisation layers (9 BatchNorm2d)" in text


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": -1e-4},
        {"betas": (0.9, 1.0)},
        {"prompt_size": 0},
        {"neighbours": 0},
        {"neighbours": 41},
        {"warm_up": 0.0},
        {"attention_temperature": 0.0},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        replace(default_options("vptta"), **options)
