"""Batches for normalisation layers, and what is expected of them by torch and by the formula itself."""

import copy

import torch
from torch import nn

from tta_bench.models.normalisation import RunningStatistics
from tta_bench.models.normalisation_layer import NormalisationLayer

CHANNELS = 3
LAYOUTS = [(1, 1), (3, 1), (1, 4), (2, 3)]


def random(*shape, seed=0, low=-1.0, high=1.0, dtype=torch.float64):
    return torch.empty(*shape, dtype=dtype).uniform_(low, high, generator=torch.Generator().manual_seed(seed))


def make_batch(streams, views, height=6, width=5):
    """Images whose channels differ in mean and scale, with one row of affine parameters per stream."""
    x = random(streams * views, CHANNELS, height, width, seed=5)
    x = x * random(streams * views, CHANNELS, 1, 1, seed=6, low=0.5, high=3) + random(
        streams * views, CHANNELS, 1, 1, seed=7, low=-2, high=2
    )
    return x, random(streams, CHANNELS, seed=8, low=0.5, high=2), random(streams, CHANNELS, seed=9)


def torch_batch_norm(batch_norm, weight, bias, training, momentum=0.1):
    """Torch's own layer with the affine parameters of one stream."""
    layer = copy.deepcopy(batch_norm).train(training)
    layer.momentum = momentum
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)
    return layer


def written_out(x, mean, variance, weight, bias, eps):
    """One image ``[C, H, W]`` by the formula itself."""
    mean, variance, weight, bias = (v[:, None, None] for v in (mean, variance, weight, bias))
    return weight * (x - mean) / torch.sqrt(variance + eps) + bias


def one_channel_layer(mean=0.0, variance=1.0):
    layer = nn.BatchNorm2d(1).double()
    layer.running_mean.fill_(mean)
    layer.running_var.fill_(variance)
    return NormalisationLayer(layer, channel_offset=0)


def on_values(statistics, values, layer=None, weight=1.0, bias=0.0):
    """Normalise a one-channel image of these values."""
    x = torch.as_tensor(values, dtype=torch.float64).view(1, 1, 1, -1)
    rows = torch.tensor([[weight]], dtype=torch.float64), torch.tensor([[bias]], dtype=torch.float64)
    return statistics.normalise(x, *rows, layer or one_channel_layer()).flatten()


def running(streams, momentum, mean=None, variance=None, channels=CHANNELS):
    mean = random(streams, channels, seed=20) if mean is None else mean
    variance = random(streams, channels, seed=21, low=0.5, high=2) if variance is None else variance
    return RunningStatistics(mean.clone(), variance.clone(), momentum)
