"""A domain without masks has images, and whatever needs labels is refused with a sentence."""

import numpy as np
import pytest
import torch

from tta_bench.data.domain import Domain, class_channels, network_inputs
from tta_bench.errors import UserError
from tta_bench.ops.geometry import Geometry
from tta_bench.ops.preprocessing import Preprocessing


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
    found = class_channels(mask.numpy(), classes)
    assert found.dtype == torch.bool
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("fit", ["stretch", "tile"])
@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(),
        Preprocessing("unit"),
        Preprocessing("percentile", (1.0, 99.0)),
        Preprocessing("unit", channels=1),
    ],
    ids=str,
)
def test_several_images_are_to_the_bit_what_each_is_by_itself(kind, fit, preprocessing):
    levels = np.random.default_rng(0).uniform(3, 250, (3, 66, 64, 3)).astype(kind)
    levels[1] = levels[1, 0, 0, 0]  # a constant image
    levels = levels[:, :64] if fit == "stretch" else levels
    of = Domain("A", tuple("abc"), levels, None, {"disc": (1,)}, "", Geometry(64, fit), (levels.shape[1:3],) * 3)
    alone = torch.stack([of.image(index, preprocessing) for index in (2, 1, 0)])
    together = network_inputs([(of, index) for index in (2, 1, 0)], preprocessing)
    assert torch.equal(together, alone)
    assert together.is_contiguous()
