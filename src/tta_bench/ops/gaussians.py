"""Gaussians of features and how far features are from them: what a centre's images look like, and who is nearest.

Shapes: ``N`` images, ``d`` features of each. All is done in float64: precisions are ill-conditioned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tta_bench.errors import UserError

LEAST_SHRINKAGE = 1e-3
"""With few images the estimate of the shrinkage may be 0 where the covariance has no inverse."""

CONSTANT = 1e-6
"""A feature whose deviation is below this share of its mean is the same for all images, but for rounding."""


@dataclass(frozen=True)
class Gaussian:
    """Of the features of some images.

    Attributes:
        mean: ``[d]``.
        precision: inverse covariance ``[d, d]``.
        typical: squared Mahalanobis distances of these images themselves: the least, their mean, the greatest.
    """

    mean: Tensor
    precision: Tensor
    typical: tuple[float, float, float]

    def content(self) -> dict[str, Tensor]:
        """The same as tensors by name."""
        return {**vars(self), "typical": torch.tensor(self.typical, dtype=torch.float64)}

    @classmethod
    def of(cls, content: Mapping[str, Tensor]) -> Gaussian:
        """The one with this content."""
        least, mean, greatest = content["typical"].tolist()
        return cls(content["mean"], content["precision"], (least, mean, greatest))

    @property
    def threshold(self) -> float:
        """The squared distance from which images are of another distribution.

        Twice the mean of what is typical, on a scale that begins at the least typical distance and ends at twice the
        greatest (González et al., MICCAI 2022).
        """
        least, mean, greatest = self.typical
        return min(2 * mean - least, 2 * greatest)


def fit(features: Tensor) -> Gaussian:
    """The Gaussian of features ``[N, d]``, its covariance shrunk as far as so few images ask for.

    Features are put on one scale first, so that a linear layer per feature, as BatchNorm under fixed statistics is,
    changes no distance.

    Raises:
        UserError: of a single image there is no covariance.
    """
    count, size = features.shape
    if count < 2:
        raise UserError(f"a Gaussian of features needs at least 2 images, and there is {count}")
    values = features.double()
    mean, deviation = values.mean(0), values.std(0, correction=0)
    scale = torch.where(deviation > CONSTANT * mean.abs(), deviation, 1)
    standard = (values - mean) / scale
    covariance = shrunk_covariance(standard)
    if not covariance.any():  # all images are alike
        covariance = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    precision = torch.linalg.inv(covariance) / (scale[:, None] * scale)
    distances = _squared(values - mean, precision)
    typical = float(distances.min()), float(distances.mean()), float(distances.max())
    return Gaussian(mean, precision, typical)


def shrunk_covariance(centred: Tensor) -> Tensor:
    """Covariance ``[d, d]`` of ``[N, d]`` with mean 0, pulled towards its mean variance (Ledoit and Wolf 2004)."""
    count, size = centred.shape
    sample = centred.T @ centred / count
    target = sample.diagonal().mean() * torch.eye(size, dtype=sample.dtype, device=sample.device)
    off_target = (sample - target).square().sum()
    noise = (centred.square().T @ centred.square() / count - sample.square()).sum() / count
    shrinkage = (noise / off_target).clamp(LEAST_SHRINKAGE, 1) if off_target > 0 else noise.new_ones(())
    return shrinkage * target + (1 - shrinkage) * sample


def mahalanobis(features: Tensor, gaussian: Gaussian) -> Tensor:
    """Squared Mahalanobis distance of each image's features ``[N, d]``: float64 ``[N]``, at least 0."""
    return _squared(features.double() - gaussian.mean, gaussian.precision)


def _squared(offsets: Tensor, precision: Tensor) -> Tensor:
    return ((offsets @ precision) * offsets).sum(-1).clamp(min=0)
