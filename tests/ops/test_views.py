from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch

from strong import drawn_views
from tta_bench.methods.options import default_options
from tta_bench.ops.draws import Draws, ImageKey
from tta_bench.ops.preprocessing import min_max
from tta_bench.ops.views import (
    WEAK_VIEWS,
    Operation,
    StrongAugmentation,
    contrast,
    gamma_of_inverted,
    gaussian_blur,
    reach,
    undo_weak_views,
    weak_views,
)

OPERATIONS = ("brightness", "contrast", "gamma", "noise", "blur")
OFF = StrongAugmentation(*[Operation(0, (1, 1))] * 5, blur_channel_p=0.5)
OFFICIAL = default_options("grata").strong_augmentation
DRAWS = 2000


def only(name, p=None):
    """One operation with its official range, certain unless ``p`` is given."""
    return replace(OFF, **{name: Operation(p or 1, getattr(OFFICIAL, name).range)})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_image(*shape, seed=0):
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def many(image, settings, count=DRAWS):
    """The operations on one image before min-max, drawn many times."""
    return before_range(image.expand(count, *image.shape), [generator(1)] * count, settings)


def before_range(images, generators, settings):
    return drawn_views(images, generators, settings, lambda views: views)


def blurred(channel, sigma):
    return gaussian_blur(channel[None], torch.tensor([sigma], dtype=torch.float64), reach(sigma))[0]


def assert_uniform(values, low, high):
    """Within the range, and Kolmogorov and Smirnov do not object."""
    values = np.asarray(values).ravel()
    assert values.min() >= low - 1e-9
    assert values.max() <= high + 1e-9
    assert scipy.stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3


# Weak views


def test_weak_views_are_numpy_s_flips_and_rotations_g7():
    array = np.arange(2 * 3 * 4 * 4, dtype=np.float64).reshape(2, 3, 4, 4)
    expected = [
        array,
        array[..., ::-1],
        array[..., ::-1, :],
        np.rot90(array, 1, (2, 3)),
        np.rot90(array, 2, (2, 3)),
        np.rot90(array, -1, (2, 3)),
    ]
    views = weak_views(torch.from_numpy(array)).numpy()
    np.testing.assert_array_equal(views, np.stack(expected, axis=1).reshape(12, 3, 4, 4))


def test_quarter_turns_of_a_plane_follow_numpy_g7():
    array = np.arange(16.0).reshape(4, 4)
    views = weak_views(torch.from_numpy(array)[None, None]).numpy()[:, 0]
    np.testing.assert_array_equal(views[3], np.rot90(array))
    np.testing.assert_array_equal(views[5], np.rot90(array, -1))


@pytest.mark.parametrize("names", [tuple(WEAK_VIEWS), ("identity",), ("rotate_270", "vertical_flip")])
def test_undoing_the_weak_views_gives_the_images_back_g7(names):
    images = random_image(3, 2, 64, 64)
    restored = undo_weak_views(weak_views(images, names), names)
    assert restored.shape == (3, len(names), 2, 64, 64)
    assert torch.equal(restored, images[:, None].expand_as(restored))


# The operations


def test_contrast_scales_about_the_mean_and_clips_to_the_range_before():
    image = random_image(3, 64, 64) * 0.6 + 0.3
    factors = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    out = contrast(image, factors[:, None, None]).numpy()
    for before, after, factor in zip(image.numpy(), out, factors.tolist(), strict=True):
        expected = np.clip((before - before.mean()) * factor + before.mean(), before.min(), before.max())
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-12)
    assert (out[2] == image[2].max().item()).sum() > 100  # the clip was at work


def test_gamma_acts_on_the_inverted_image_and_keeps_its_range():
    image = random_image(3, 64, 64) * 1.4 - 0.2
    exponents = torch.tensor([0.5, 1.3, 2.0], dtype=torch.float64)
    out = gamma_of_inverted(image, exponents[:, None, None]).numpy()
    for before, after, exponent in zip(image.numpy(), out, exponents.tolist(), strict=True):
        inverted = -before
        span = inverted.max() - inverted.min()
        expected = -(((inverted - inverted.min()) / (span + 1e-7)) ** exponent * (span + 1e-7) + inverted.min())
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-12)
        assert after.min() == pytest.approx(before.min(), abs=1e-6)
        assert after.max() == pytest.approx(before.max(), abs=1e-6)


@pytest.mark.parametrize("sigma", [0.3, 0.5, 0.87, 1.1, 1.5, 3.0])
def test_blur_is_scipy_s_gaussian_filter(sigma):
    channel = random_image(64, 70)
    expected = scipy.ndimage.gaussian_filter(channel.numpy(), sigma)
    np.testing.assert_allclose(blurred(channel, sigma).numpy(), expected, rtol=0, atol=1e-12)
    single = blurred(channel.float(), sigma)
    np.testing.assert_allclose(single.numpy(), expected, rtol=0, atol=1e-6)


def test_blur_wider_than_the_image_still_mirrors_it_as_scipy_does():
    channel = random_image(5, 7)
    np.testing.assert_allclose(blurred(channel, 4.0), scipy.ndimage.gaussian_filter(channel.numpy(), 4.0), atol=1e-12)


def test_blur_of_sigma_0_changes_nothing():
    channel = random_image(64, 64)
    assert torch.equal(blurred(channel, 0.0), channel)


def test_operations_follow_each_other_in_the_official_order():
    fixed = StrongAugmentation(
        brightness=Operation(1, (1.4, 1.4)),
        contrast=Operation(1, (1.3, 1.3)),
        gamma=Operation(1, (1.7, 1.7)),
        noise=Operation(1, (0.0, 0.0)),
        blur=Operation(1, (1.1, 1.1)),
        blur_channel_p=1.0,
    )
    image = random_image(3, 64, 64)
    expected = []
    for channel in image.numpy() * 1.4:
        changed = np.clip((channel - channel.mean()) * 1.3 + channel.mean(), channel.min(), channel.max())
        low, span = -changed.max(), changed.max() - changed.min() + 1e-7
        changed = -(((-changed - low) / span) ** 1.7 * span + low)
        expected.append(scipy.ndimage.gaussian_filter(changed, 1.1))
    expected = np.stack(expected)
    out = before_range(image[None], [generator()], fixed)[0]
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-10)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(drawn_views(image[None], [generator()], fixed)[0], expected, rtol=0, atol=1e-10)


# What is drawn


@pytest.mark.parametrize(
    ("name", "p"), [("brightness", 0.75), ("contrast", 0.75), ("gamma", 0.75), ("noise", 0.5), ("blur", 0.5)]
)
def test_each_operation_fires_with_its_official_probability(name, p):
    assert getattr(OFFICIAL, name).p == p
    settings = only(name, p)
    image = random_image(3, 16, 16)
    changed = (many(image, settings) != image).flatten(1).any(1).double().mean().item()
    if name == "blur":  # all three channels may be spared
        p *= 1 - 0.5**3
    assert changed == pytest.approx(p, abs=4 * (p * (1 - p) / DRAWS) ** 0.5)


def test_operations_fire_independently_of_each_other():
    half = {name: Operation(0.5, getattr(OFFICIAL, name).range) for name in OPERATIONS}
    image = random_image(3, 8, 8)
    views = many(image, StrongAugmentation(**half, blur_channel_p=1.0), 4000)
    untouched = (views == image).flatten(1).all(1).double().mean().item()
    assert untouched == pytest.approx(0.5**5, abs=0.01)


def test_brightness_factors_are_uniform_and_differ_between_channels():
    image = random_image(3, 8, 8) + 0.1
    factors = many(image, only("brightness")) / image
    assert (factors.amax((2, 3)) - factors.amin((2, 3))).max() < 1e-12  # one factor for each channel
    assert_uniform(factors[:, :, 0, 0], 0.5, 1.5)
    assert abs(np.corrcoef(factors[:, 0, 0, 0], factors[:, 1, 0, 0])[0, 1]) < 0.1


def test_brightness_is_not_split_at_1_when_its_range_is_lopsided():
    image = random_image(3, 8, 8) + 0.1
    settings = replace(OFF, brightness=Operation(1, (0.5, 3.0)))
    assert_uniform((many(image, settings) / image)[:, :, 0, 0], 0.5, 3.0)


def assert_half_below_and_half_above_1(values, low, high):
    values = np.asarray(values).ravel()
    below = values < 1
    assert below.mean() == pytest.approx(0.5, abs=4 * 0.5 / len(values) ** 0.5)
    assert_uniform(values[below], low, 1)
    assert_uniform(values[~below], 1, high)


def test_contrast_factors_are_below_and_above_1_with_equal_probability():
    image = torch.full((3, 8, 8), 0.5, dtype=torch.float64)
    image[:, 0, 0], image[:, 0, 1], image[:, 1, 0], image[:, 1, 1] = 0, 1, 0.4, 0.6  # mean 0.5, extremes far away
    out = many(image, only("contrast"))
    assert_half_below_and_half_above_1((out[:, :, 1, 1] - 0.5) / 0.1, 0.5, 1.5)


def test_gamma_exponents_are_below_and_above_1_with_equal_probability():
    image = torch.full((3, 8, 8), 0.5, dtype=torch.float64)
    image[:, 0, 0], image[:, 0, 1] = 0, 1
    out = many(image, only("gamma"))
    assert_half_below_and_half_above_1(torch.log(1 - out[:, :, 2, 2]) / np.log(0.5), 0.5, 2.0)


def test_a_range_on_one_side_of_1_is_drawn_from_as_it_is():
    image = torch.full((3, 8, 8), 0.5, dtype=torch.float64)
    image[:, 0, 0], image[:, 0, 1] = 0, 1
    settings = replace(OFF, gamma=Operation(1, (1.2, 1.6)))
    assert_uniform(torch.log(1 - many(image, settings)[:, :, 2, 2]) / np.log(0.5), 1.2, 1.6)


def test_noise_has_one_standard_deviation_per_image_uniform_up_to_0_05():
    image = random_image(3, 64, 64)
    noise = many(image, only("noise"), 400) - image
    sigmas = noise.std((2, 3))
    assert (sigmas / sigmas.mean(1, keepdim=True) - 1).abs().max() < 0.06  # the same for all channels
    assert_uniform(noise.flatten(1).std(1).clamp(max=0.05), 0, 0.05)
    assert noise.flatten(1).mean(1).abs().max() < 0.05 * 5 / (3 * 64 * 64) ** 0.5


def test_blur_hits_each_channel_half_of_the_time_with_a_sigma_of_its_own():
    image = torch.zeros(3, 33, 33, dtype=torch.float64)
    image[:, 16, 16] = 1
    peaks = many(image, only("blur"))[:, :, 16, 16]
    hit = peaks < 1
    assert hit.double().mean().item() == pytest.approx(0.5, abs=0.03)
    widest, narrowest = (scipy.ndimage.gaussian_filter(image[0].numpy(), s)[16, 16] for s in (1.5, 0.5))
    assert widest - 1e-9 <= peaks[hit].min() < widest * 1.05
    assert narrowest * 0.95 < peaks[hit].max() <= narrowest + 1e-9
    both = hit[:, 0] & hit[:, 1]
    assert (peaks[both, 0] != peaks[both, 1]).all()


# The view as a whole


def test_without_operations_the_strong_view_is_min_max_of_the_image():
    images = random_image(2, 3, 64, 64) * 0.5 + 0.2
    assert torch.equal(drawn_views(images, [generator(), generator()], OFF), min_max(images))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strong_views_lie_in_0_to_1_and_leave_the_images_as_they_are(dtype):
    images = random_image(32, 3, 64, 64).to(dtype)
    kept = images.clone()
    views = drawn_views(images, [generator(seed) for seed in range(32)], OFFICIAL)
    assert torch.equal(images, kept)
    assert views.shape == images.shape
    assert views.dtype == dtype
    assert torch.equal(views.amin((1, 2, 3)), torch.zeros(32, dtype=dtype))
    assert torch.equal(views.amax((1, 2, 3)), torch.ones(32, dtype=dtype))


def test_a_strong_view_depends_on_its_own_image_and_generator_alone():
    images = random_image(3, 3, 64, 64)
    state = torch.get_rng_state()
    together = drawn_views(images, [generator(seed) for seed in range(3)], OFFICIAL)
    torch.rand(17)  # other random numbers do not matter
    for s in range(3):
        alone = drawn_views(images[s : s + 1], [generator(s)], OFFICIAL)
        assert torch.equal(together[s : s + 1], alone)
    torch.set_rng_state(state)
    drawn_views(images[:1], [generator()], OFFICIAL)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(together[0], drawn_views(images[:1], [generator(9)], OFFICIAL)[0])


def test_streams_draw_by_key():
    images = random_image(1, 3, 64, 64).repeat(3, 1, 1, 1)
    keys = [ImageKey(0, "B", "one"), ImageKey(0, "B", "two"), ImageKey(0, "B", "one")]
    views = drawn_views(images, Draws(keys).generators("strong view"), OFFICIAL)
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])


def test_float32_and_float64_views_are_the_same_draw():
    images = random_image(8, 3, 64, 64)
    double = drawn_views(images, [generator(s) for s in range(8)], OFFICIAL)
    single = drawn_views(images.float(), [generator(s) for s in range(8)], OFFICIAL)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-5)


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_a_constant_image_stays_finite(value):
    images = torch.full((16, 3, 64, 64), value)
    views = drawn_views(images, [generator(seed) for seed in range(16)], OFFICIAL)
    assert views.isfinite().all()
    assert views.amin() >= 0
    assert views.amax() <= 1


@pytest.mark.parametrize(
    ("p", "interval", "match"),
    [(1.5, (0, 1), "p="), (-0.1, (0, 1), "p="), (0.5, (2, 1), "range="), (0.5, (-1, 1), "range=")],
)
def test_impossible_operations_are_refused(p, interval, match):
    with pytest.raises(ValueError, match=match):
        Operation(p, interval)
