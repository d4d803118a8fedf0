"""AdaBN: the normalisation statistics of the whole target in place of the source's (Li et al., 2017)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tta_bench.errors import UserError
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.offline.access import Access
from tta_bench.offline.base import Curve, System, SystemCard, batches, register_system

Moments = tuple[int, Tensor, Tensor]
"""Number of values per channel, their mean and biased variance ``[C]``."""


def moments(values: Tensor) -> Moments:
    """Of every channel of ``[N, C, H, W]``, in double precision."""
    channels = values.detach().double().transpose(0, 1).flatten(1)
    return channels.shape[1], channels.mean(1), channels.var(1, correction=0)


def pooled(parts: Sequence[Moments]) -> Moments:
    """Moments of all values together from those of parts, whatever their sizes."""
    counts = torch.tensor([count for count, _, _ in parts], dtype=torch.float64)
    weights = (counts / counts.sum())[:, None].to(parts[0][1].device)
    means, variances = torch.stack([part[1] for part in parts]), torch.stack([part[2] for part in parts])
    mean = (weights * means).sum(0)
    return int(counts.sum()), mean, (weights * (variances + (means - mean) ** 2)).sum(0)


@register_system("adabn")
class AdaBN(System):
    """The statistics of all target images; no weight changes.

    On its way to a layer, an image is normalised by the statistics of its batch, as in training. What the layer is
    shown in all batches is pooled.
    """

    card = SystemCard(
        adapts="normalisation statistics",
        needs=("target_images",),
        paper="Li et al., Pattern Recognition 2018",
        licence="none published",
        stochastic=False,
    )

    def __init__(self, model: SegmentationModel, access: Access, options: Any, seed: int) -> None:
        super().__init__(model, access, options, seed)
        if not batch_norms(model):
            raise UserError(
                "adapt=adabn measures the statistics of BatchNorm layers, and this network has none: choose another "
                "system, or another network"
            )

    def epoch(self, number: int) -> Curve:
        """Measure, and put in place."""
        layers = batch_norms(self.model)
        seen: dict[_BatchNorm, list[Moments]] = {layer: [] for layer in layers}
        images = self.access.target_images
        with torch.no_grad(), measured(layers, seen):
            for places in batches(list(range(len(images))), self.options.batch_size):
                self.model(images.batch(places).to(self.device))
        moved = []
        for layer, parts in seen.items():
            if parts and layer.running_mean is not None and layer.running_var is not None:
                _, mean, variance = pooled(parts)
                moved.append(((mean - layer.running_mean) / (layer.running_var + layer.eps).sqrt()).abs().mean())
                layer.running_mean.copy_(mean)
                layer.running_var.copy_(variance)
        return {"shift": float(torch.stack(moved).mean())}


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers with running statistics outside the auxiliary branches, in module order."""
    return [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None and not name.startswith("branches.")
    ]


@contextmanager
def measured(layers: Sequence[_BatchNorm], seen: dict[_BatchNorm, list[Moments]]) -> Iterator[None]:
    """Normalise by the batch, and note what each layer is shown; running statistics stay as they are.

    A layer that is shown one value per channel has nothing to measure, and normalises as the source model does.
    """

    def before(layer: _BatchNorm, inputs: tuple[Tensor]) -> None:
        values = inputs[0]
        alone = values.shape[0] * values.shape[2:].numel() == 1
        layer.train(not alone)
        if not alone:
            seen[layer].append(moments(values))

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(before).remove)
            stack.callback(partial(setattr, layer, "momentum", layer.momentum))
            stack.callback(layer.eval)
            layer.momentum = 0.0
        yield
