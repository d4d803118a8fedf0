"""The way to the network's square and back: nothing is lost that is not resized."""

import numpy as np
import pytest
import torch
from PIL import Image

from tta_bench.ops.geometry import OVERLAP, Geometry, stacked, unstacked

SIDE = 64
SIZES = [(64, 64), (64, 40), (17, 64), (63, 64), (200, 64), (64, 129), (150, 211), (30, 20), (1, 64), (3, 500)]


def picture(height, width):
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def maps(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).double()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fit", ["stretch", "pad", "tile"])
def test_the_network_is_shown_squares_and_its_answer_has_the_size_that_is_told(size, fit):
    geometry, image = Geometry(SIDE, fit), picture(*size)
    kept = geometry.image(image)
    shown = geometry.pieces(kept)
    assert shown.shape == (SIDE * len(geometry.corners(*size)), SIDE, 3)
    assert geometry.pieces(geometry.mask(image[..., 0])).shape == shown.shape[:2]
    assert shown.dtype == np.uint8
    assert geometry.crop(kept, (0.999, 0)).shape == (SIDE, SIDE, 3)
    for at in ("network", "stored"):
        assert geometry.restored(maps(shown), *size, at).shape == (3, *geometry.size(*size, at))
    assert geometry.size(*size, "stored") == size


@pytest.mark.parametrize("size", SIZES)
def test_tiles_of_a_network_that_returns_its_input_are_the_image(size):
    geometry, image = Geometry(SIDE, "tile"), picture(*size)
    back = geometry.restored(maps(geometry.pieces(geometry.image(image))), *size, "stored")
    torch.testing.assert_close(back, maps(image), rtol=0, atol=1e-9)


def test_tiles_overlap_cover_all_and_weigh_less_towards_their_border():
    geometry = Geometry(SIDE, "tile")
    rows = sorted({y for y, _ in geometry.corners(333, 64)})
    steps = np.diff(rows)
    assert (rows[0], rows[-1]) == (0, 333 - SIDE)
    assert max(steps) <= SIDE * (1 - OVERLAP) + 1
    # One tile says 1, all others 0: its share falls without a step where the next begins.
    stack = torch.zeros(1, len(rows) * SIDE, SIDE, dtype=torch.float64)
    stack[:, SIDE : 2 * SIDE] = 1
    share = geometry.restored(stack, 333, 64, "stored")[0, :, 32]
    assert share.diff().abs().max() < 0.2
    assert [share[0], share.max(), share[-1]] == [0, 1, 0]


@pytest.mark.parametrize("size", [(64, 40), (17, 64), (1, 64)])
def test_padding_is_the_mirrored_image_and_comes_off_again(size):
    geometry, image = Geometry(SIDE, "pad"), picture(*size)
    kept = geometry.image(image)
    for at in ("network", "stored"):
        assert torch.equal(geometry.restored(maps(kept), *size, at), maps(image))
    rows, columns = geometry.place(*size)
    beside = np.ones((SIDE, SIDE), bool)
    beside[rows, columns] = False
    pixels = {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()}
    assert all(tuple(pixel) in pixels for pixel in kept[beside].tolist())
    # What the network says of the padding has no part in what is scored.
    changed = maps(kept)
    changed[:, torch.from_numpy(beside)] = 1e6
    assert torch.equal(geometry.restored(changed, *size, "stored"), maps(image))


def test_padding_keeps_the_aspect_ratio_and_stretching_does_not():
    circle = np.hypot(*np.mgrid[-100:100, -150:150]) < 80
    drawn = np.repeat(circle[..., None], 3, 2).astype(np.uint8) * 255
    for fit, ratio in (("pad", 1.0), ("stretch", 1.5)):
        geometry = Geometry(SIDE, fit)
        found = geometry.image(drawn)[..., 0][geometry.place(200, 300)] > 127
        height, width = (np.ptp(np.flatnonzero(found.any(axis))) + 1 for axis in (1, 0))
        assert abs(height / width - ratio) < 0.07


def test_stretching_is_as_ever():
    image, geometry = picture(50, 90), Geometry(SIDE)
    resized = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    assert np.array_equal(geometry.pieces(geometry.image(image)), np.asarray(resized))
    logits = torch.randn(2, SIDE, SIDE)
    assert torch.equal(geometry.restored(logits, 50, 90, "network"), logits)


def test_stacks_are_told_apart_into_tiles_and_back():
    stack = torch.randn(2, 3, 4 * 8, 8)
    tiles = unstacked(stack, 4)
    assert torch.equal(tiles[5], stack[1, :, 8:16])
    assert torch.equal(stacked(tiles, 4), stack)
    assert unstacked(stack, 1) is stack
    assert torch.equal(stacked(torch.arange(8.0)[:, None], 4), torch.tensor([[1.5], [5.5]]))
