"""Ways to combine two gradients, as algebra on rows ``[A, scalars]``: one row per stream.

Inner products are taken in float64. A gradient whose squared norm is below 1e-30 counts as no conflict: dividing by it
would turn rounding noise into infinities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_TINY = 1e-30  # squared norm
_SEARCH_STEPS = 100  # halves the bracket to below float64's resolution


def gradient_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of two gradients ``[A, scalars]`` over all scalars jointly: ``[A]``.

    The official code's form: 1e-12 is added to the product of the norms, so a zero gradient gives 0.
    """
    return (first * second).sum(dim=1) / (first.norm(dim=1) * second.norm(dim=1) + 1e-12)


def project_conflicts(main: Tensor, auxiliary: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """Remove from ``main`` what opposes ``auxiliary``, group by group (GSMorph, MICCAI 2023).

    Where the inner product of a group is negative, its component along the auxiliary gradient is subtracted; the
    auxiliary gradient itself is never added. Groups without conflict are returned bit for bit.

    Args:
        main: ``[A, scalars]``.
        auxiliary: ``[A, scalars]``.
        sizes: how many scalars each group has, in their order; None for one group.

    Returns:
        ``[A, scalars]``, no group longer than in ``main``.
    """
    sizes = [main.shape[1]] if sizes is None else sizes
    groups = torch.cat([torch.full((size,), group) for group, size in enumerate(sizes)])
    groups = groups.to(main.device, non_blocking=True)
    exact_main, exact_auxiliary = main.double(), auxiliary.double()

    def per_group(values: Tensor) -> Tensor:
        return values.new_zeros(len(main), len(sizes)).index_add_(1, groups, values)

    inner, squared = per_group(exact_main * exact_auxiliary), per_group(exact_auxiliary.square())
    conflict = (inner < 0) & (squared >= _TINY)
    factor = torch.where(conflict, inner / squared.clamp_min(_TINY), 0)[:, groups]
    projected = (exact_main - factor * exact_auxiliary).to(main)
    return torch.where(conflict[:, groups], projected, main)


def pcgrad(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Each gradient without its component against the other's original (PCGrad, NeurIPS 2020)."""
    return project_conflicts(first, second), project_conflicts(second, first)


def cagrad(first: Tensor, second: Tensor, radius: float) -> Tensor:
    """The direction near the mean gradient that helps the worse objective most (CAGrad, NeurIPS 2021).

    ``d = g0 + radius |g0| g_w / |g_w|`` with ``g0`` the mean and ``g_w = w first + (1 - w) second``, where ``w`` in
    [0, 1] minimises ``g_w . g0 + radius |g0| |g_w|``; a convex function of one number, found by ternary search on
    the three inner products.

    Args:
        first: ``[A, scalars]``.
        second: ``[A, scalars]``.
        radius: c in the paper, not negative; 0 gives the mean.

    Returns:
        ``[A, scalars]`` with ``|d - g0| = radius |g0|``, or ``g0`` where ``g_w`` vanishes.
    """
    a, b = first.double(), second.double()
    aa, ab, bb = (a * a).sum(1), (a * b).sum(1), (b * b).sum(1)
    mean = (a + b) / 2
    mean_norm = mean.norm(dim=1)
    # A search is hundreds of operations on a handful of numbers: the host's, asked for once.
    weight = _search(*torch.stack([aa, ab, bb, radius * mean_norm]).cpu()).to(mean.device, non_blocking=True)
    mixed = weight[:, None] * a + (1 - weight)[:, None] * b
    length = mixed.norm(dim=1)
    scale = torch.where(length.square() >= _TINY, radius * mean_norm / length.clamp_min(_TINY), 0)
    return (mean + scale[:, None] * mixed).to(first)


def _search(aa: Tensor, ab: Tensor, bb: Tensor, reach: Tensor) -> Tensor:
    """The weight ``[A]`` of :func:`cagrad`, from inner products and ``radius |g0|``, each ``[A]``."""

    def norm(w: Tensor) -> Tensor:
        return (w * w * aa + 2 * w * (1 - w) * ab + (1 - w) ** 2 * bb).clamp_min(0).sqrt()

    def value(w: Tensor) -> Tensor:
        return (w * (aa + ab) + (1 - w) * (ab + bb)) / 2 + reach * norm(w)

    low, high = torch.zeros_like(aa), torch.ones_like(aa)
    for _ in range(_SEARCH_STEPS):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        go_left = value(left) <= value(right)
        low, high = torch.where(go_left, low, left), torch.where(go_left, right, high)
    return (low + high) / 2
