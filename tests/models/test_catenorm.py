"""CateNorm: two passes, the second with a scale and shift of what the first has predicted."""

import pytest
import torch
from torch import nn

from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.build import build_model
from tta_bench.models.catenorm import CategoricalNorm
from tta_bench.models.normalisation import BatchStatistics, RunningStatistics, SourceStatistics
from tta_bench.ops.draws import ImageKey
from tta_bench.ops.probabilities import probabilities
from tta_bench.schema import ModelConfig

SMALL = {"name": "unet", "encoder": "resnet18", "decoder_channels": [16, 16, 8, 8, 8]}


def network(blocks=1, activation="sigmoid", **changes):
    """Two classes, every statistic and affine parameter away from its first value."""
    torch.manual_seed(0)
    config = ModelConfig.model_validate(SMALL | {"norm": "catenorm", "norm_blocks": blocks} | changes)
    model = build_model(config, 2, activation=activation).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5)
    return model


def layer_of(channels=6, classes=2):
    torch.manual_seed(0)
    layer = CategoricalNorm(nn.BatchNorm2d(channels), classes).eval()
    nn.init.normal_(layer.second.running_mean)
    return layer


def test_with_convolutions_of_zero_it_is_its_own_batch_norm_without_affine():
    layer, x = layer_of(), torch.randn(2, 6, 8, 8)
    for convolution in (layer.scale, layer.shift):
        nn.init.zeros_(convolution.weight)
        nn.init.zeros_(convolution.bias)
    assert torch.equal(layer(x), layer.first(x))
    layer.prediction = torch.rand(2, 2, 16, 16)
    expected = (x - layer.second.running_mean[:, None, None]) / (1 + layer.second.eps) ** 0.5
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_a_constant_prediction_scales_evenly_and_a_change_reaches_two_pixels():
    layer, x = layer_of(), torch.ones(1, 6, 16, 16)
    layer.prediction = torch.full((1, 2, 16, 16), 0.3)
    even = layer(x)
    assert torch.allclose(even[..., 2:-2, 2:-2], even[..., 8:9, 8:9].expand(1, 6, 12, 12), atol=1e-6)
    layer.prediction = layer.prediction.clone()
    layer.prediction[..., 5:8, 9:12] = 0.9
    changed = ((layer(x) - even).abs() > 1e-7).any(1)[0].nonzero()
    assert changed.min(0).values.tolist() == [3, 7]
    assert changed.max(0).values.tolist() == [9, 13]


@pytest.mark.parametrize("blocks", [1, 4])
def test_it_replaces_the_finest_resolutions_of_the_encoder_at_little_cost(blocks):
    model = network(blocks, decoder_channels=None)
    replaced = [name for name, layer in model.named_modules() if isinstance(layer, CategoricalNorm)]
    stages = ["encoder.bn1", *(f"encoder.layer{k}" for k in (1, 2, 3))][:blocks]
    assert all(any(name.startswith(stage) for stage in stages) for name in replaced)
    assert len(replaced) == (1 if blocks == 1 else 1 + 4 + 5 + 5)
    if blocks == 1:
        plain = build_model(ModelConfig.model_validate(SMALL | {"decoder_channels": None}), 2)
        count = [sum(value.numel() for value in each.parameters()) for each in (model, plain)]
        assert 1 < count[0] / count[1] < 1.015


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_a_prediction_is_two_passes_and_gradients_stay_in_their_own(activation):
    model, images = network(2, activation), torch.rand(2, 3, 64, 64)
    calls, encode = [], model.encode
    model.encode = lambda shown: calls.append(1) or encode(shown)
    logits = model(images)
    assert len(calls) == 2
    first = model.one_pass(images)
    assert torch.equal(model.one_pass(images, probabilities(first, activation)), logits)
    assert torch.equal(model.activations(images).logits, logits)
    assert not torch.equal(first, logits)
    first.sum().backward(retain_graph=True)
    categorical = {name for name, _ in model.named_parameters() if {*name.split(".")} & {"shared", "scale", "shift"}}
    assert {name for name, value in model.named_parameters() if value.grad is None} == categorical
    model.zero_grad()
    model.one_pass(images, probabilities(first, activation)).sum().backward()
    assert {name for name, value in model.named_parameters() if value.grad is None} == {
        name for name, _ in model.named_parameters() if ".first." in name
    }


def test_wrapped_it_is_the_source_model_and_a_policy_rules_both_normalisations():
    model, images = network(2), torch.rand(2, 3, 64, 64)
    adaptable = AdaptableNetwork(model)
    theta = adaptable.source_theta[None]
    with torch.no_grad():
        plain = adaptable(images, theta, SourceStatistics())
        assert torch.allclose(plain, model(images), atol=1e-5)
        own = adaptable(images, theta, BatchStatistics())
    names = {name for name in adaptable.batch_norm_layers if name.startswith("encoder.bn1")}
    assert names == {"encoder.bn1.first", "encoder.bn1.second"}
    assert "encoder.bn1.second" not in adaptable.layers, "it has no scale and shift of its own"
    for part in ("first", "second"):  # as source statistics, either would be seen to be out of place
        layer = adaptable.batch_norm_layers[f"encoder.bn1.{part}"]
        layer.source_mean += 5
        with torch.no_grad():
            assert torch.equal(adaptable(images, theta, BatchStatistics()), own)
            assert not torch.equal(adaptable(images, theta, SourceStatistics()), plain)
        layer.source_mean -= 5
    mean, variance = (each[None].clone() for each in adaptable.source_statistics)
    with torch.no_grad():
        adaptable(images[:1], theta, moved := RunningStatistics(mean, variance, 0.1))
    for part in ("first", "second"):
        layer = adaptable.batch_norm_layers[f"encoder.bn1.{part}"]
        assert not torch.equal(moved.mean[0, layer.channel_slice], layer.source_mean)


@pytest.mark.parametrize("name", ["bn_only", "tent", "dua", "grata"])
def test_methods_run_on_it(name):
    adaptable = AdaptableNetwork(network(1))
    method = METHODS.get(name)(adaptable, default_options(name))
    method.start(1)
    images, key = torch.rand(1, 3, 64, 64), [ImageKey(0, "B", "image")]
    method.step(images, key)
    assert method.predict(images).isfinite().all()


def test_what_it_cannot_serve_is_refused_in_a_sentence():
    with pytest.raises(UserError, match=r"encoder\.bn1\.second"):
        METHODS.get("domain_adaptor")(AdaptableNetwork(network(1)), default_options("domain_adaptor"))
    with pytest.raises(UserError, match=r"model\.norm=catenorm replaces BatchNorm layers"):
        network(1, encoder="mit_b0")
