"""An adapted network as a plain one, without anything of this package."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from tta_bench.errors import UserError
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.normalisation import (
    BatchStatistics,
    MixedStatistics,
    RunningStatistics,
    SourceStatistics,
    Statistics,
)
from tta_bench.models.segmentation import SegmentationModel


@torch.no_grad()
def plain_copy(
    model: SegmentationModel, network: AdaptableNetwork, row: Tensor, statistics: Statistics, images: Tensor
) -> SegmentationModel:
    """A copy of the source model that predicts as the adaptable network does with one row of parameters.

    Where the statistics are those of each image, the layers of the copy do with the batch: alike at batch size 1.

    Args:
        model: the source model.
        network: made of it.
        row: ``[scalars]``, affine or all parameters.
        statistics: with at most one row.
        images: ``[1, C, H, W]``, which tell the layers that see a single value per channel; these keep the source's.

    Returns:
        In evaluation mode.

    Raises:
        UserError: a plain network cannot have these statistics.
    """
    copied = copy.deepcopy(model).eval()
    layers = {name: copied.get_submodule(name) for name in network.batch_norm_layers}
    single = _single_valued(copied, images, layers)
    for name, value in network.named_values(row).items():
        _write(copied, name, value)
    if isinstance(statistics, RunningStatistics):
        for name, layer in network.batch_norm_layers.items():
            _write(copied, f"{name}.running_mean", statistics.mean[0, layer.channel_slice])
            _write(copied, f"{name}.running_var", statistics.variance[0, layer.channel_slice])
    elif isinstance(statistics, BatchStatistics):
        for name in layers.keys() - single:
            _forget_statistics(name, layers[name])
    elif layers and not _are_of_source(statistics):
        raise UserError(
            f"{type(statistics).__name__.removesuffix('Statistics').lower()} statistics are computed "
            "anew for every image, which no plain normalisation layer does: keep the adapter, and its state with "
            "state_dict()"
        )
    return copied


def _are_of_source(statistics: Statistics) -> bool:
    is_mixture_of_source = isinstance(statistics, MixedStatistics) and statistics.source_weight == 1
    return isinstance(statistics, SourceStatistics) or is_mixture_of_source


def _single_valued(model: nn.Module, images: Tensor, layers: dict[str, nn.Module]) -> set[str]:
    """Names of layers that see one value per channel."""
    single: set[str] = set()

    def look(name: str, x: Tensor) -> None:
        if x.shape[2:].numel() == 1:
            single.add(name)

    handles = [
        layer.register_forward_pre_hook(lambda module, inputs, name=name: look(name, inputs[0]))
        for name, layer in layers.items()
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return single


def _forget_statistics(name: str, layer: nn.Module) -> None:
    """Let a layer normalise by the statistics of what it sees, in evaluation mode too."""
    if not isinstance(layer, _NormBase):
        raise UserError(
            f"the layer {name}, a {type(layer).__name__}, has no mode in which it takes the statistics of an image: "
            "keep the adapter, and its state with state_dict()"
        )
    layer.track_running_stats = False
    layer.running_mean = layer.running_var = layer.num_batches_tracked = None


def _write(model: nn.Module, name: str, value: Tensor) -> None:
    """Replace the content of a parameter or buffer; one that is missing is made."""
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    tensor = getattr(module, leaf, None)
    if tensor is not None:
        tensor.copy_(value.view_as(tensor))
    elif value.numel():
        module.register_parameter(leaf, nn.Parameter(value.clone()))
