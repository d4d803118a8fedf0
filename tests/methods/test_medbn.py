import pytest
import torch
from torch import nn

from plain_statistics import median, with_statistics
from tta_bench.methods.bn_only import BatchNormOnly
from tta_bench.methods.medbn import MedBN
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import MedianStatistics
from tta_bench.models.normalisation_layer import NormalisationLayer
from tta_bench.ops.draws import ImageKey

KEYS = [ImageKey(0, "B", f"image{k}") for k in range(8)]


@pytest.fixture(scope="module")
def network(unet):
    return AdaptableNetwork(unet)


def predict(method, images):
    method.start(1)
    return torch.cat([method.step(images[k : k + 1], KEYS[k : k + 1]).logits for k in range(len(images))])


@torch.no_grad()
def test_every_layer_centres_on_the_lower_median_of_the_image(unet, network, images):
    model = with_statistics(unet, median)
    expected = torch.cat([model(image[None]) for image in images[:3]])
    torch.testing.assert_close(predict(MedBN(network), images[:3]), expected, rtol=0, atol=1e-9)
    assert (predict(BatchNormOnly(network), images[:3]) - expected).abs().max() > 1e-2


def test_train_and_eval_mode_give_the_same_prediction(unet, images):
    network = AdaptableNetwork(unet)
    evaluated = predict(MedBN(network.eval()), images[:2])
    assert torch.equal(predict(MedBN(network.train()), images[:2]), evaluated)


def test_no_image_depends_on_the_images_before_it(network, images):
    forwards = predict(MedBN(network), images[:4])
    assert torch.equal(predict(MedBN(network), images[:4].flip(0)).flip(0), forwards)


def test_a_gain_of_the_image_does_not_matter_bn3(small_net, images):
    model = AdaptableNetwork(small_net)
    model.model.down[0][0].bias.zero_()  # so that a gain passes through the first convolution
    first, second = (predict(MedBN(model), gain * images[:2]) for gain in (40, 4000))  # variances far above eps
    assert (first - second).abs().max() < 1e-4


def values_of(values):
    return values.view(1, 1, 1, -1), torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)


def test_the_variance_about_the_median_is_never_below_the_one_about_the_mean():
    generator = torch.Generator().manual_seed(0)
    layer = NormalisationLayer(nn.BatchNorm2d(1).double(), channel_offset=0)
    for power in (1, 2, 3, 5):
        values = torch.randn(4000, generator=generator, dtype=torch.float64).abs() ** power
        out = MedianStatistics().normalise(*values_of(values), layer).flatten()
        slope = (out[0] - out[1]) / (values[0] - values[1])
        middle = values.sort().values[1999]
        assert slope**-2 == pytest.approx(float(values.var(correction=0) + (values.mean() - middle) ** 2), rel=1e-3)
        assert slope**-2 > values.var(correction=0)


@pytest.mark.parametrize("count", [256, 16_384])
def test_on_symmetric_data_it_is_bn_only_up_to_the_error_of_the_median(count):
    values = torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = NormalisationLayer(nn.BatchNorm2d(1).double(), channel_offset=0)
    out = MedianStatistics().normalise(*values_of(values), layer).flatten()
    expected = (values - values.mean()) / (values.var(correction=0) + layer.eps).sqrt()
    assert (out - expected).abs().max() < 5 / count**0.5
