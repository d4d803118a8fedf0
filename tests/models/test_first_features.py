"""Features of an image that tell centres apart: what the first normalisation layer of any network is given."""

import pytest
import torch
from torch import nn

from tta_bench.errors import UserError
from tta_bench.models.first_features import first_features
from tta_bench.models.segmentation import SegmentationModel


class Small(SegmentationModel):
    """A layer, a normalisation and what must not run."""

    def __init__(self, norm, first=None):
        super().__init__(4)
        self.unused = nn.LayerNorm(7)
        self.first = first or nn.Conv2d(3, 4, 3)
        self.norm = norm

    def encode(self, images):
        return [self.norm(self.first(images))]

    def decode(self, features):
        raise AssertionError("the pass goes on")

    def classify(self, head_input):
        raise AssertionError("the pass goes on")


class Tokens(nn.Conv2d):
    def forward(self, images):
        return super().forward(images).flatten(2).movedim(1, 2)


IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.InstanceNorm2d(4, affine=True)]
)
def test_they_are_channel_means_of_what_the_layer_is_given(norm):
    model = Small(norm).eval()
    found = first_features(model, IMAGES)
    assert torch.allclose(found, model.first(IMAGES).mean((2, 3)))
    assert not found.requires_grad
    assert not norm._forward_pre_hooks


def test_tokens_have_their_channels_last():
    model = Small(nn.LayerNorm(4), Tokens(3, 4, 3)).eval()
    assert torch.allclose(first_features(model, IMAGES), model.first(IMAGES).mean(1))


def test_a_network_without_such_a_layer_is_refused():
    class Bare(Small):
        def decode(self, features):
            return features[-1]

        def classify(self, head_input):
            return head_input

    with pytest.raises(UserError, match="this network has none"):
        first_features(Bare(nn.Identity()), IMAGES)
