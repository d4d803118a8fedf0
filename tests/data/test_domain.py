"""A domain without masks has images, and whatever needs labels is refused with a sentence."""

import numpy as np
import pytest
import torch

from tta_bench.data.domain import Domain, class_channels
from tta_bench.errors import UserError


def domain(name, masks):
    images = np.full((1, 4, 4, 3), 7, np.uint8)
    return Domain(name, ("x",), images, masks, {"disc": (1,)}, "")


def test_images_need_no_masks_and_labels_do():
    without = domain("B", None)
    assert without.image(0).shape == (3, 4, 4)
    for ask in (without.mask, without.label):
        with pytest.raises(UserError, match=r"domain 'B' has no masks, and training, scores .* need them"):
            ask(0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_class_channels_are_membership_of_the_values(dtype):
    mask = torch.randint(0, 5, (2, 66, 64), generator=torch.Generator().manual_seed(0)).to(dtype)
    classes = {"a": (1, 2, 4), "b": (2,), "c": (250,)}
    expected = torch.stack([torch.isin(mask, torch.tensor(values)) for values in classes.values()], dim=-3)
    found = class_channels(mask, classes)
    assert found.dtype == torch.bool
    assert torch.equal(found, expected)
