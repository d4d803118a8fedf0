"""Every method takes an image in tiles as one image: one state, one loss, the statistics of all tiles together."""

import pytest
import torch
from settings import options_of

from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import ImageKey

KEY = [ImageKey(0, "A", "a")]
COMPARING = [name for name in METHODS.names() if METHODS.get(name).card.compares_pixels]
TILED = [name for name in METHODS.names() if name not in COMPARING]
# What these take from an image is the same of it and of copies of it; an unbiased variance counts its pixels.
SHAPELESS = ["bn_only", "medbn", "no_adapt", "sar", "tent"]


def adapted(name, net, images, tiled):
    kind, options = METHODS.get(name), options_of(name)
    method = kind(AdaptableNetwork(net, kind.branches(options), tiled=tiled), options)
    method.start(1)
    results = [method.step(image[None], KEY) for image in images]
    return torch.cat([result.logits for result in results]), results[-1].diagnostics


@pytest.mark.parametrize("name", ["diga", "grata", "tent", "vptta"])
def test_an_image_that_is_one_tile_is_an_image(small_net, images, name):
    alone, told = adapted(name, small_net, images[:2], tiled=False)
    tiled, told_tiled = adapted(name, small_net, images[:2], tiled=True)
    assert torch.equal(alone, tiled)
    assert told == told_tiled


@pytest.mark.parametrize("name", TILED)
def test_images_of_different_numbers_of_tiles_follow_each_other(small_net, images, name):
    stacks = [torch.cat(list(images[:3]), 1), images[3], torch.cat(list(images[4:6]), 1)]
    kind, options = METHODS.get(name), options_of(name)
    method = kind(AdaptableNetwork(small_net, kind.branches(options), tiled=True), options)
    method.start(1)
    for stack in stacks:
        result = method.step(stack[None], KEY)
        assert result.logits.shape[-2:] == stack.shape[-2:]
        assert result.logits.isfinite().all()


@pytest.mark.parametrize("name", COMPARING)
def test_what_compares_pixels_takes_tiled_images_of_one_size(small_net, images, name):
    stacks = [torch.cat([image, image.flip(0)], 1) for image in images[:6]]
    logits, _ = adapted(name, small_net, stacks, tiled=True)
    assert logits.isfinite().all()
    with pytest.raises(UserError, match="one of another size came"):
        adapted(name, small_net, [*stacks, images[7], images[7]], tiled=True)


@pytest.mark.parametrize("name", SHAPELESS)
def test_copies_of_a_tile_are_adapted_to_as_the_tile(small_net, images, name):
    alone, told = adapted(name, small_net, images[:2], tiled=False)
    copied, told_copied = adapted(name, small_net, [torch.cat([image] * 3, 1) for image in images[:2]], tiled=True)
    torch.testing.assert_close(copied, torch.cat([alone] * 3, -2), rtol=0, atol=1e-8)
    for key, values in told.items():
        assert told_copied[key] == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize("name", ["bn_only", "tent"])
def test_the_statistics_are_those_of_all_tiles(small_net, images, name):
    """A tile beside another is predicted otherwise than alone."""
    together, _ = adapted(name, small_net, [torch.cat(list(images[:2]), 1)], tiled=True)
    apart, _ = adapted(name, small_net, images[:1], tiled=True)
    assert (together[..., :64, :] - apart).abs().max() > 1e-3
