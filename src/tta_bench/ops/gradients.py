"""Ways to combine two gradients, as algebra on rows ``[A, scalars]``: one row per stream.

Inner products are taken in float64. A gradient whose squared norm is below 1e-30 counts as no conflict: dividing by it
would turn rounding noise into infinities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tta_bench.runtime.transfer import sent

_TINY = 1e-30  # squared norm


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
    groups = sent(groups, main.device)
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
    [0, 1] minimises ``g_w . g0 + radius |g0| |g_w|``; a convex function of one number, whose minimum has a closed form.

    Args:
        first: ``[A, scalars]``.
        second: ``[A, scalars]``.
        radius: c in the paper, not negative; 0 gives the mean.

    Returns:
        ``[A, scalars]`` with ``|d - g0| = radius |g0|``, or ``g0`` where ``g_w`` vanishes.
    """
    a, b = first.double(), second.double()
    mean = (a + b) / 2
    mean_norm = mean.norm(dim=1)
    weight = _best_weight(a, b, radius * mean_norm)
    mixed = weight[:, None] * a + (1 - weight)[:, None] * b
    length = mixed.norm(dim=1)
    scale = torch.where(length.square() >= _TINY, radius * mean_norm / length.clamp_min(_TINY), 0)
    return (mean + scale[:, None] * mixed).to(first)


def _best_weight(first: Tensor, second: Tensor, reach: Tensor) -> Tensor:
    """The weight ``[A]`` of :func:`cagrad` for gradients ``[A, scalars]``, with ``reach = radius |g0|``, ``[A]``.

    Up to a constant the function is ``slope w + reach sqrt(squared (w - middle)^2 + rest)``: a hyperbola, whose minimum
    lies beside ``middle`` where it is steep enough to turn, and beyond every bound where it is not. ``rest``, the
    squared distance of the line through both from 0, is measured where it is nearest: as a difference of inner products
    it would be noise for opposed gradients.
    """
    between = first - second
    squared = between.square().sum(1).clamp_min(_TINY)
    slope = (between * (first + second)).sum(1) / 2
    middle = -(between * second).sum(1) / squared
    rest = (second + middle[:, None] * between).square().sum(1)
    turning = reach.square() * squared - slope.square()
    aside = slope.abs() * (rest / (squared * turning.clamp_min(_TINY**2))).sqrt()
    return (middle - slope.sign() * torch.where(turning > 0, aside, torch.inf).nan_to_num()).clamp(0, 1)
