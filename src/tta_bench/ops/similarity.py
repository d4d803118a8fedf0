"""SR-SIM: how alike two images are, by spectral-residual saliency and gradients (Zhang and Li, ICIP 2012)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 120
"""Of the square grey images that are compared, pixels."""

_SCALE = 0.25
_SIGMA, _TAPS = 3.8, 10
_C1, _C2 = 0.40, 225.0


class Looks(NamedTuple):
    """What is compared of images."""

    saliency: Tensor
    """``[N, SIDE, SIDE]`` in [0, 1]."""
    gradients: Tensor
    """``[N, SIDE, SIDE]``, magnitudes of grey levels up to 255."""


def thumbnails(images: Tensor) -> Tensor:
    """Grey levels ``[N, SIDE, SIDE]``, uint8, of images ``[N, C, H, W]`` in [0, 1]."""
    small = F.interpolate(
        images.mean(1, keepdim=True), (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
    )
    return (small[:, 0] * 255).round().clamp(0, 255).to(torch.uint8)


def looks(grey: Tensor, dtype: torch.dtype) -> Looks:
    """What is compared of :func:`thumbnails`."""
    images = grey.to(dtype)[:, None]
    scharr = images.new_tensor([[3, 0, -3], [10, 0, -10], [3, 0, -3]]) / 16
    kernels = torch.stack([scharr, scharr.T])[:, None]
    gradients = torch.linalg.vector_norm(F.conv2d(images, kernels, padding=1), dim=1)
    return Looks(_saliency(images), gradients)


def similarities(one: Looks, others: Looks) -> Tensor:
    """SR-SIM of every image of one with every other, ``[A, N]``, at most 1; 1 for equal images."""
    rows = [_similarity(Looks(*(each[row] for each in one)), others) for row in range(len(one.saliency))]
    return torch.stack(rows)


def _similarity(one: Looks, others: Looks) -> Tensor:
    (saliency, gradients), (their_saliency, their_gradients) = one, others
    alike = _alike(saliency, their_saliency, _C1) * _alike(gradients, their_gradients, _C2).sqrt()
    weights = torch.maximum(saliency, their_saliency)
    return (alike * weights).sum((-2, -1)) / weights.sum((-2, -1)).clamp(min=1e-12)


def _alike(one: Tensor, other: Tensor, constant: float) -> Tensor:
    return (2 * one * other + constant) / (one**2 + other**2 + constant)


def _saliency(images: Tensor) -> Tensor:
    """Spectral-residual saliency ``[N, SIDE, SIDE]`` in [0, 1] of grey images ``[N, 1, SIDE, SIDE]``."""
    small = F.interpolate(images, scale_factor=_SCALE, mode="bilinear", antialias=True, align_corners=False)
    spectrum = torch.fft.fft2(small)
    logarithm = (spectrum.abs() + 1e-8).log()
    residual = logarithm - F.avg_pool2d(F.pad(logarithm, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    salient = torch.fft.ifft2(torch.polar(residual.exp(), spectrum.angle())).abs() ** 2
    places = torch.arange(_TAPS, dtype=images.dtype, device=images.device) - (_TAPS - 1) / 2
    taps = torch.exp(-(places**2) / (2 * _SIGMA**2))
    kernel = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    before, after = (_TAPS - 1) // 2, _TAPS // 2
    smooth = F.conv2d(F.pad(salient, (before, after, before, after), mode="replicate"), kernel)
    low, high = smooth.amin((-2, -1), keepdim=True), smooth.amax((-2, -1), keepdim=True)
    scaled = (smooth - low) / (high - low).clamp(min=1e-12)
    return F.interpolate(scaled, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
