"""The losses of source training: segmentation, and one for each auxiliary branch of the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_bench.models.pretext import PRETEXT_TASKS
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.ops.probabilities import Activation, cross_entropies, probabilities, targets

SMOOTH = 1.0
"""Pixels added to numerator and denominator of the soft Dice."""


def segmentation_loss(logits: Tensor, labels: Tensor, activation: Activation = "sigmoid") -> Tensor:
    """Cross-entropy plus soft Dice loss: binary and pooled, or of classes that exclude each other.

    Of the latter, all classes weigh the same in the Dice loss, the background among them, however small they are.

    Args:
        logits: float ``[N, channels, H, W]``.
        labels: bool ``[N, classes, H, W]``, also float under a sigmoid.
        activation: what the logits stand for.

    Returns:
        Scalar, at least 0.
    """
    if activation == "softmax":
        truth = targets(labels, activation).to(logits.dtype)
        classes = zip(probabilities(logits, activation).unbind(1), truth.unbind(1), strict=True)
        dice = torch.stack([soft_dice_loss(predicted, true) for predicted, true in classes]).mean()
        return cross_entropies(logits, truth, activation).mean() + dice
    labels = labels.to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, labels) + soft_dice_loss(torch.sigmoid(logits), labels)


def soft_dice_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """``1 - (2 sum(p y) + 1) / (sum(p) + sum(y) + 1)``, pooled over all that it is given: a batch, its channels.

    Pooling, from the script that trained the paper's models, weighs images and classes by their area.
    """
    intersection = (probabilities * labels).sum()
    return 1 - (2 * intersection + SMOOTH) / (probabilities.sum() + labels.sum() + SMOOTH)


def branch_loss(name: str, model: SegmentationModel, images: Tensor) -> Tensor:
    """The self-supervised loss of one auxiliary branch; draws from torch's global random state.

    The running statistics outside the branches stay those of plain images: they are the source statistics.

    Args:
        name: the branch.
        model: a network that has it.
        images: ``[N, 3, H, W]`` in [0, 1].

    Returns:
        Scalar, see ``training_loss`` of the branch's pretext task.
    """
    with _frozen_running_statistics(model):
        return PRETEXT_TASKS.get(name).training_loss(partial(model.branch, name), images)


@contextmanager
def _frozen_running_statistics(model: SegmentationModel) -> Iterator[None]:
    """Normalise by the batch as before, but leave the running statistics alone, except those of the branches.

    The count of batches goes on, except where it decides the weight of the next batch: without a momentum the
    statistics are the mean over all batches.
    """
    layers: list[Any] = [
        layer
        for name, layer in model.named_modules()
        if not name.startswith("branches.") and _has_running_statistics(layer)
    ]
    momenta = [layer.momentum for layer in layers]
    counts = [layer.num_batches_tracked.clone() if layer.momentum is None else None for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum, count in zip(layers, momenta, counts, strict=True):
            layer.momentum = momentum
            if count is not None:
                layer.num_batches_tracked.copy_(count)


def _has_running_statistics(layer: nn.Module) -> bool:
    """Whether it is a normalisation layer, of torch or of another library, whose statistics follow its momentum."""
    return hasattr(layer, "momentum") and any(name.startswith("running_") for name, _ in layer.named_buffers("", False))
