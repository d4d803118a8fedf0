"""Networks normalised by the written-out formula, one image at a time, as a reference for the policies."""

import copy

import torch
from torch import nn


def with_statistics(model, of):
    """A copy of ``model`` whose BatchNorm layers use ``of(x, layer) -> mean, variance``, each ``[C]``."""
    model = copy.deepcopy(model).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = lambda x, layer=layer: _normalise(x, *of(x, layer), layer)
    return model


def _normalise(x, mean, variance, layer):
    mean, variance, weight, bias = (v[:, None, None] for v in (mean, variance, layer.weight, layer.bias))
    return weight * (x - mean) / torch.sqrt(variance + layer.eps) + bias


def mixed(source_weight, correction):
    """``w * source + (1 - w) * image`` for :func:`with_statistics`."""

    def of(x, layer):
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=correction)
        w = source_weight
        return w * layer.running_mean + (1 - w) * mean, w * layer.running_var + (1 - w) * variance

    return of


def median(x, layer):
    """The lower middle value and the mean squared deviation from it, for :func:`with_statistics`."""
    values = x.transpose(0, 1).flatten(1).sort(dim=1).values
    middle = values[:, (values.shape[1] - 1) // 2]
    return middle, (values - middle[:, None]).square().mean(1)
