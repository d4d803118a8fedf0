"""Stains of an image and back, copies in other colours, and the divergence of what is predicted of them."""

import math

import pytest
import torch

from tta_bench.ops.probabilities import divergences
from tta_bench.ops.stain import DRAWS, STAINS, hed_of, recoloured, rgb_of


def test_stains_make_the_image_again_and_a_pure_stain_is_itself():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert (rgb_of(hed_of(images)) - images).abs().max() < 1e-2
    haematoxylin = torch.tensor(STAINS[0]) / torch.tensor(STAINS[0]).norm()
    pure = torch.pow(10, -0.7 * haematoxylin)[None, :, None, None]
    assert hed_of(pure).flatten().tolist() == pytest.approx([0.7, 0, 0], abs=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_copy_is_the_image_where_nothing_changes_and_depends_on_its_own_draws(channels):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, channels, 16, 16, generator=generator)
    uniform = torch.rand(3, DRAWS, generator=generator)
    assert torch.allclose(recoloured(images, torch.full((3, DRAWS), 0.5)), images, atol=1e-5)
    copies = recoloured(images, uniform)
    assert copies.min() >= 0
    assert copies.max() <= 1
    assert (copies - images).abs().mean() > 0.01
    assert torch.equal(recoloured(images[1:2], uniform[1:2]), copies[1:2])
    white = torch.full((1, channels, 8, 8), 0.95)
    stains = torch.full((1, DRAWS), 0.5)
    stains[:, :6] = 1
    assert torch.allclose(recoloured(white, stains), white), "nearly white"


def test_the_divergence_is_that_of_a_bernoulli_pixel_and_not_symmetric():
    p, q = 0.8, 0.3
    first, second = (torch.full((1, 1, 1, 1), math.log(x / (1 - x)), dtype=torch.float64) for x in (p, q))
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert float(divergences(first, second, "sigmoid")) == pytest.approx(expected)
    assert float(divergences(second, first, "sigmoid")) != pytest.approx(expected, rel=1e-2)
    pair = [torch.cat([torch.zeros_like(x), x], 1) for x in (first, second)]
    assert float(divergences(*pair, "softmax")) == pytest.approx(expected)
    assert float(divergences(first, first, "sigmoid")) == pytest.approx(0, abs=1e-12)
