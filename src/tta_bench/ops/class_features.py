"""Features of one class each: a feature map weighted by what it does to the class, and how alike classes are in them.

Shapes: ``N`` images, ``C`` classes, ``F`` channels of a feature map, which may be coarser than the output.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_bench.ops.pseudo_labels import Trusted

Salience = Literal["channel", "pixel"]
"""What a map is weighted by: the gradient's mean over the pixels of each channel, or the gradient of each pixel."""


def class_scores(log_odds: Tensor) -> Tensor:
    """Sum of the log-odds of each class over the pixels that it is more probable than not on: ``[N, C]``.

    A class that is on no pixel sums over all, each weighted by its probability.

    Args:
        log_odds: ``[N, C, H, W]``.
    """
    present = log_odds.detach() > 0
    anywhere = present.flatten(2).any(2)[..., None, None]
    weight = torch.where(anywhere, present.to(log_odds), torch.sigmoid(log_odds.detach()))
    return (weight * log_odds).sum((2, 3))


def class_gradients(features: Tensor, log_odds: Tensor) -> Tensor:
    """Gradient of each class's score by a feature map, a constant: ``[N, C, F, h, w]``.

    Args:
        features: ``[N, F, h, w]``, on the way to ``log_odds``.
        log_odds: ``[N, C, H, W]``; their graph is kept.
    """
    scores = class_scores(log_odds).sum(0)
    return torch.stack([torch.autograd.grad(score, features, retain_graph=True)[0] for score in scores], 1)


def class_features(features: Tensor, log_odds: Tensor, salience: Salience) -> Tensor:
    """The feature map as each class sees it: weighted by its gradient, without what speaks against the class.

    Gradients flow through the map, not through the weights.

    Args:
        features: as of :func:`class_gradients`.
        log_odds: likewise.
        salience: see :data:`Salience`.

    Returns:
        At least 0, ``[N, C, F, h, w]``.
    """
    weights = class_gradients(features, log_odds)
    if salience == "channel":
        weights = weights.mean((-2, -1), keepdim=True)
    return F.relu(weights * features[:, None])


def contrast(features: Tensor, trusted: Trusted) -> Tensor:
    """How alike the classes of an image are: the cosine of their mean features, mean over pairs of classes: ``[N]``.

    A class is what is trusted to be of it and of no later class: of a disc with a cup in it, the rim. A pair counts 0
    where either is on no pixel.

    Args:
        features: of each class ``[N, C, F, h, w]``, at least 0.
        trusted: bool ``[N, C, H, W]``, an outer class before the one in it.

    Returns:
        In [0, 1].
    """
    labels = trusted.labels
    later = [labels[:, place + 1 :].any(1) for place in range(labels.shape[1])]
    own = trusted.mask & labels & ~torch.stack(later, 1)
    weight = F.interpolate(own.to(features), features.shape[-2:], mode="nearest")
    pixels = weight.sum((2, 3))
    means = torch.einsum("ncfhw,nchw->ncf", features, weight) / pixels.clamp(min=1)[..., None]
    pairs = [
        F.cosine_similarity(means[:, a], means[:, b], dim=1) * ((pixels[:, a] > 0) & (pixels[:, b] > 0))
        for a, b in combinations(range(labels.shape[1]), 2)
    ]
    return torch.stack(pairs).mean(0) if pairs else features.new_zeros(len(features))
