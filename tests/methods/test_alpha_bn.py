from dataclasses import replace

import pytest
import torch

from plain_statistics import mixed, with_statistics
from tta_bench.methods.alpha_bn import AlphaBN
from tta_bench.methods.bn_only import BatchNormOnly
from tta_bench.methods.no_adapt import NoAdapt
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.ops.draws import ImageKey

KEYS = [ImageKey(0, "B", f"image{k}") for k in range(8)]


@pytest.fixture(scope="module")
def network(unet):
    return AdaptableNetwork(unet)


def predict(method, images):
    method.start(1)
    return torch.cat([method.step(images[k : k + 1], KEYS[k : k + 1]).logits for k in range(len(images))])


def alpha_bn(network, images, **options):
    return predict(AlphaBN(network, replace(default_options("alpha_bn"), **options)), images)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("source_weight", [0.5, 0.9, 16 / 17])
@torch.no_grad()
def test_every_layer_mixes_the_statistics_linearly(unet, network, images, source_weight, unbiased):
    model = with_statistics(unet, mixed(source_weight, correction=int(unbiased)))
    expected = torch.cat([model(image[None]) for image in images[:3]])
    out = alpha_bn(network, images[:3], source_weight=source_weight, unbiased=unbiased)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)


def test_all_weight_on_the_source_is_no_adaptation_bn4(network, images):
    expected = predict(NoAdapt(network), images[:3])
    assert (alpha_bn(network, images[:3], source_weight=1.0) - expected).abs().max() < 1e-9


def test_all_weight_on_the_image_is_bn_only_up_to_the_unbiased_factor_bn4(network, images):
    expected = predict(BatchNormOnly(network), images[:3])
    biased = alpha_bn(network, images[:3], source_weight=0.0, unbiased=False)
    assert (biased - expected).abs().max() < 1e-9
    assert (alpha_bn(network, images[:3], source_weight=0.0) - expected).abs().max() > 1e-6


def test_the_pseudo_count_of_schneider_is_a_source_weight(unet, network, images):
    count = 16  # N source images against the one test image: N / (N + n), n = 1

    def pooled(x, layer):
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=1)
        total = count + 1
        return (count * layer.running_mean + mean) / total, (count * layer.running_var + variance) / total

    with torch.no_grad():
        expected = with_statistics(unet, pooled)(images[:1])
    out = alpha_bn(network, images[:1], source_weight=count / (count + 1))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)


def test_no_image_depends_on_the_images_before_it(network, images):
    forwards = alpha_bn(network, images[:4])
    backwards = alpha_bn(network, images[:4].flip(0))
    assert torch.equal(backwards.flip(0), forwards)


@pytest.mark.parametrize("source_weight", [-0.1, 1.1])
def test_a_source_weight_outside_0_to_1_is_refused(source_weight):
    with pytest.raises(ValueError, match="source_weight"):
        replace(default_options("alpha_bn"), source_weight=source_weight)
