"""A domain without masks has images, and whatever needs labels is refused with a sentence."""

import numpy as np
import pytest

from tta_bench.data.domain import Domain
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
