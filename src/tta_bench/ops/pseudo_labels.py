"""Pseudo-labels of a source model, and which of their pixels to trust: plain functions on tensors.

Shapes: ``N`` images, ``C`` channels of the output, each a class on its own; ``F`` channels of a feature map, which may
be coarser than the output. Channels keep the order of ``data.classes``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Beliefs(NamedTuple):
    """What several stochastic passes say of images; each ``[N, C, H, W]``."""

    probability: Tensor
    """Mean of the sigmoid, in [0, 1]."""
    uncertainty: Tensor
    """Unbiased standard deviation of the sigmoid at a temperature, at least 0."""


class Trusted(NamedTuple):
    """Pseudo-labels and the pixels on which they count; both bool ``[N, C, H, W]``."""

    labels: Tensor
    mask: Tensor


def beliefs(logits: Tensor, temperature: float = 2.0) -> Beliefs:
    """Mean and spread over passes.

    Args:
        logits: ``[K, N, C, H, W]`` of ``K`` passes, at least 2.
        temperature: divides the logits before their spread is taken.

    Raises:
        ValueError: a single pass has no spread.
    """
    if len(logits) < 2:
        raise ValueError("the spread over passes needs at least 2 of them")
    return Beliefs(torch.sigmoid(logits).mean(0), torch.sigmoid(logits / temperature).std(0))


def prototype_labels(
    features: Tensor, labels: Tensor, reliable: Tensor, probability: Tensor, *, per_image: bool = False
) -> Tensor:
    """Which of two centroids each pixel is nearer to: that of a class, or that of all else.

    The centroids are means over the pixels of all images, of those that are reliable, weighted by how probable their
    side is. A pixel belongs to the class if it is strictly nearer; where a side has no pixel, none does.

    Args:
        features: ``[N, F, h, w]``, or one map for each class ``[N, C, F, h, w]``.
        labels: bool ``[N, C, H, W]``.
        reliable: bool, likewise.
        probability: of the class, likewise, in [0, 1].
        per_image: take the means over the pixels of each image on its own.

    Returns:
        Bool ``[N, C, H, W]``.
    """
    size, full = features.shape[-2:], labels.shape[-2:]
    side = F.interpolate(labels.to(features), size, mode="nearest")
    trusted = F.interpolate(reliable.to(features), size, mode="nearest")
    certain = F.interpolate(probability.to(features), size, mode="bilinear", align_corners=True)
    maps = features if features.dim() == 5 else features[:, None].expand(-1, labels.shape[1], -1, -1, -1)
    distances = []
    for weight in (side * trusted * certain, (1 - side) * trusted * (1 - certain)):
        if per_image:
            centroid = torch.einsum("ncfhw,nchw->ncf", maps, weight) / weight.sum((2, 3))[..., None]
        else:
            centroid = (torch.einsum("ncfhw,nchw->cf", maps, weight) / weight.sum((0, 2, 3))[:, None])[None]
        distances.append(((maps - centroid[..., None, None]) ** 2).sum(2))
    nearer = distances[0] < distances[1]  # not where a centroid is 0 / 0
    return F.interpolate(nearer.to(features), full, mode="nearest").bool()


def trusted_labels(
    believed: Beliefs,
    features: Tensor,
    *,
    threshold: float = 0.75,
    largest_uncertainty: float = 0.05,
    per_image: bool = False,
) -> Trusted:
    """Denoised pseudo-labels (Chen et al., MICCAI 2021): certain, and confirmed by the nearest prototype.

    DPL decides reliability on the uncertainty resized to the features; here it is decided where it is measured, and
    the decision is resized.

    Args:
        believed: of the images, whose prototypes are common.
        features: as of :func:`prototype_labels`.
        threshold: probability from which on, exclusively, a pixel belongs to a class.
        largest_uncertainty: below which a pixel is reliable.
        per_image: whether each image has prototypes of its own.
    """
    labels = believed.probability > threshold
    reliable = believed.uncertainty < largest_uncertainty
    confirmed = labels == prototype_labels(features, labels, reliable, believed.probability, per_image=per_image)
    return Trusted(labels, reliable & confirmed)


def masked_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy, the weighted mean over pixels; 0 where no weight is above 0.

    Args:
        logits: ``[N, C, H, W]``.
        labels: bool or float, likewise.
        weight: likewise, at least 0.
    """
    losses = F.binary_cross_entropy_with_logits(logits, labels.to(logits), reduction="none")
    weight = weight.to(logits)
    return (losses * weight).sum() / weight.sum().clamp(min=1.0)
