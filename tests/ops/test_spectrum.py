"""Low-frequency amplitudes in the place of others."""

import pytest
import torch

from small_networks import source_images
from tta_bench.errors import UserError
from tta_bench.ops.similarity import looks, similarities, thumbnails
from tta_bench.ops.spectrum import amplitudes, exchanged, restyled, window

RADIUS = 3.2


@pytest.fixture
def donors(images):
    return amplitudes(source_images(len(images)), RADIUS)


def inside(images):
    return torch.fft.fft2(images, norm="forward")[..., *torch.tensor(window(RADIUS)).T % images.shape[-1]]


@pytest.mark.parametrize(
    ("side", "beta", "count"),
    [(64, 0.015, 1), (64, 0.03, 9), (64, 0.05, 37), (128, 0.015, 9), (217, 0.015, 37), (512, 0.015, 185)],
)
def test_the_window_is_a_circle_with_the_opposite_of_every_frequency(side, beta, count):
    places = window(beta * side)
    assert len(places) == count
    assert {(-row, -column) for row, column in places} == set(places)
    assert all(row**2 + column**2 < (beta * side) ** 2 for row, column in places)


def test_without_a_window_and_with_its_own_amplitudes_an_image_is_itself(images, donors):
    nothing = amplitudes(source_images(len(images)), 0)
    assert torch.equal(restyled(images, nothing, 0, "real_clip"), images)
    own = restyled(images, amplitudes(images, RADIUS), RADIUS, "real_clip")
    torch.testing.assert_close(own, images, rtol=0, atol=1e-12)
    single = images.float()
    own = restyled(single, amplitudes(single, RADIUS), RADIUS, "real_clip")
    torch.testing.assert_close(own, single, rtol=0, atol=1e-5)
    assert (restyled(images, donors, RADIUS, "real_clip") - images).abs().max() > 0.1


def test_amplitudes_are_the_donor_s_and_all_phases_and_other_amplitudes_the_image_s_own(images, donors):
    moved = exchanged(images, donors, RADIUS)
    assert moved.imag.abs().max() < 1e-12
    before, after = (torch.fft.fft2(each, norm="forward") for each in (images, moved.real))
    torch.testing.assert_close(inside(moved.real).abs(), donors, rtol=0, atol=1e-12)
    outside = torch.ones(images.shape[-2:], dtype=torch.bool)
    outside[*torch.tensor(window(RADIUS)).T % images.shape[-1]] = False
    torch.testing.assert_close(after[..., outside], before[..., outside], rtol=0, atol=1e-12)
    clear = before.abs() > 1e-6
    torch.testing.assert_close(
        (after / before)[clear].angle(), torch.zeros(int(clear.sum())).double(), rtol=0, atol=1e-8
    )


def test_pixels_come_back_in_range_and_a_magnitude_folds_those_below_black(images):
    dark = amplitudes(images * 0.05, RADIUS)
    raw = exchanged(images, dark, RADIUS).real
    assert raw.min() < -0.1
    assert torch.equal(restyled(images, dark, RADIUS, "real_clip"), raw.clamp(0, 1))
    folded = restyled(images, dark, RADIUS, "abs_max")
    assert torch.equal(folded.amax((1, 2, 3)), torch.ones(len(images), dtype=folded.dtype))
    torch.testing.assert_close(folded, raw.abs() / raw.abs().amax((1, 2, 3), keepdim=True))


def test_a_frequency_means_the_same_at_any_size(images):
    large = torch.nn.functional.interpolate(source_images(), (96, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(amplitudes(large, 2), amplitudes(source_images(), 2), rtol=0, atol=2e-3)


def test_a_window_beyond_the_image_is_refused(images):
    with pytest.raises(UserError, match=r"radius 33 does not fit into the spectrum of 64 x 64 pixels: lower method.r"):
        amplitudes(images, 33)


def test_sr_sim_is_one_of_equal_images_alone_and_knows_the_nearer_one(images):
    one = looks(thumbnails(images), torch.float64)
    found = similarities(one, one)
    torch.testing.assert_close(found.diagonal(), torch.ones(len(images)).double())
    torch.testing.assert_close(found, found.T)
    assert found.fill_diagonal_(0).max() < 0.999
    noise = 0.02 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=images.dtype)
    assert similarities(looks(thumbnails((images + noise).clamp(0, 1)), torch.float64), one).argmax(1).tolist() == [
        *range(len(images))
    ]
