"""What an image looks like to a network: the channel means of what its first normalisation layer is given.

Scanners and cameras differ in brightness, contrast and colour, which the first layers see; anatomy comes later.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn

from tta_bench.errors import UserError
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.models.wrapping import is_normalisation


class _ReachedError(Exception):
    """The rest of the pass is not needed."""


def first_features(model: SegmentationModel, images: Tensor) -> Tensor:
    """Channel means before the first normalisation layer that a pass reaches: float32 ``[N, C]``.

    Args:
        model: in eval mode.
        images: ``[N, C, H, W]`` in [0, 1].

    Raises:
        UserError: the network has no normalisation layer.
    """
    found: list[Tensor] = []

    def keep(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(_channel_means(inputs[0], _channels(layer)))
        raise _ReachedError

    with ExitStack() as stack, torch.no_grad(), suppress(_ReachedError):
        for layer in model.modules():
            if is_normalisation(layer):
                stack.callback(layer.register_forward_pre_hook(keep).remove)
        model(images)
    if not found:
        raise UserError(
            "images are told apart by what the first normalisation layer is given, and this network has none: choose a "
            "network with such a layer, or do without route=, adapt=odex and adapt=always_new"
        )
    return found[0]


def _channels(layer: Any) -> int | None:
    """Of what a layer normalises; None where it does not say."""
    weight = layer._parameters.get("weight")
    return weight.numel() if weight is not None else getattr(layer, "num_features", None)


def _channel_means(values: Tensor, channels: int | None) -> Tensor:
    """``[N, C]`` of ``[N, C, ...]``, or of ``[N, ..., C]`` as transformers have it."""
    last = channels not in (None, values.shape[1]) and values.shape[-1] == channels
    return (values.movedim(-1, 1) if last else values).float().flatten(2).mean(2)
