"""The images that a network is tried on: the smallest that it takes."""

import pytest
import torch

from small_networks import SmallNet, build
from tta_bench.errors import UserError
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.foreign import ForeignNetwork
from tta_bench.models.segmentation import SegmentationModel


class Choosy(SmallNet):
    """Says by ``answer`` what it makes of a side in pixels: raises, or gives what its logits are multiplied with."""

    answer = staticmethod(lambda side: 1.0)

    def classify(self, head_input):
        logits = super().classify(head_input)
        return logits * self.answer(logits.shape[-1])


def refusing(takes):
    def answer(side):
        if not takes(side):
            raise ValueError(f"not {side} pixels")
        return 1.0

    return answer


NOTHING = float("nan")
SMALLEST, LARGEST = SegmentationModel.probe_sizes


@pytest.fixture
def sides():
    """Of the images that a network has been tried on, in order."""
    return []


def network(sides, answer, image_size=None):
    model = build(Choosy).float()
    model.answer = lambda side: sides.append(side) or answer(side)
    return AdaptableNetwork(model, image_size=image_size)


def test_a_network_is_tried_on_the_smallest_images(sides):
    made = network(sides, lambda side: 1.0)
    assert set(sides) == {SMALLEST}
    assert made.channels_last
    assert made.source_theta.dtype == torch.float32


def test_a_network_of_ones_own_is_tried_where_its_deepest_maps_are_larger_than_a_pixel(sides):
    """Of a map of one pixel normalisation leaves nothing, whatever the layer does."""
    own = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1))
    own[0].register_forward_hook(lambda layer, inputs, output: sides.append(output.shape[-1]))
    AdaptableNetwork(ForeignNetwork(own))
    assert set(sides) == {LARGEST}


@pytest.mark.parametrize(
    "answer",
    [refusing(lambda side: side >= LARGEST), lambda side: 1.0 if side >= LARGEST else NOTHING],
    ids=["refused", "no number"],
)
def test_what_goes_wrong_with_these_alone_refuses_no_network(sides, answer):
    network(sides, answer)
    assert sides[-1] == LARGEST


def test_a_network_of_one_size_is_tried_on_that(sides):
    network(sides, refusing(lambda side: side == 96), image_size=96)
    assert sides[-1] == 96
    with pytest.raises(UserError, match=f"cannot take an image of {LARGEST} x {LARGEST} pixels"):
        network(sides, refusing(lambda side: side == 96))


def test_a_network_without_any_number_is_refused(sides):
    with pytest.raises(UserError, match="not finite"):
        network(sides, lambda side: NOTHING)
