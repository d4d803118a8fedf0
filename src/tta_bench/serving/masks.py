"""From logits to what is written of an image: pure functions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tta_bench.data.classes import told_values
from tta_bench.errors import UserError
from tta_bench.ops.probabilities import Activation, entropies


def mean_entropy(logits: Tensor, activation: Activation) -> float:
    """Mean entropy of logits ``[channels, H, W]`` over pixels, and over classes that may overlap, in nats."""
    return float(entropies(logits, activation).double().mean())


def memberships(classes: Mapping[str, tuple[int, ...]]) -> dict[int, tuple[bool, ...]]:
    """As :func:`~tta_bench.data.classes.told_values`, where one mask tells all classes.

    Raises:
        UserError: two classes have the same values, so that no mask tells them apart.
    """
    owners: dict[frozenset[int], str] = {}
    for name, values in classes.items():
        twin = owners.setdefault(frozenset(values), name)
        if twin != name:
            raise UserError(
                f"classes {twin} and {name} have the same mask values {sorted(set(values))}, so that no value tells "
                "them apart: add --per-class, which writes one file for each class"
            )
    return told_values(classes)


def mask_values(masks: Tensor, logits: Tensor, threshold: float, classes: Mapping[str, tuple[int, ...]]) -> Tensor:
    """One mask of all classes, in the values of the training masks.

    A pixel whose classes no value tells, such as one of the cup outside the disc, gets the most probable of the values
    that there are: the one with the largest sum of its classes' logits, each beyond the threshold's.

    Args:
        masks: bool ``[classes, H, W]``.
        logits: of the same shape, where the classes do not exclude each other; else not looked at.
        threshold: of the probabilities, in (0, 1).
        classes: name -> mask values.

    Returns:
        uint8 ``[H, W]``.
    """
    told = memberships(classes)
    members = torch.tensor(list(told.values()))  # [values, classes]
    values = torch.tensor(list(told), dtype=torch.uint8)
    mask = torch.zeros(masks.shape[1:], dtype=torch.uint8)
    left = torch.ones_like(mask, dtype=torch.bool)
    for value, member in zip(values, members, strict=True):
        same = (masks == member[:, None, None]).all(0)
        mask[same] = value
        left &= ~same
    if left.any():
        beyond = logits[:, left] - torch.logit(torch.tensor(threshold))  # [classes, pixels]
        mask[left] = values[(members.to(beyond.dtype) @ beyond).argmax(0)]
    return mask


def vertical_ratio(disc: Tensor, cup: Tensor) -> float | None:
    """Height of the cup in parts of that of the disc, bool ``[H, W]`` each; None without a disc."""
    heights = [int(rows[-1] - rows[0]) + 1 if len(rows) else 0 for rows in (m.any(1).nonzero() for m in (disc, cup))]
    return heights[1] / heights[0] if heights[0] else None
