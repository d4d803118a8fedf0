"""Which source images are held out of the training, and how well a network does on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tta_bench.data.domain import Domain
from tta_bench.errors import UserError
from tta_bench.metrics.dice import dice_score
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.ops.draws import seed_of
from tta_bench.ops.geometry import stacked, unstacked
from tta_bench.ops.probabilities import masks
from tta_bench.runtime.training_section import TrainingConfig

THRESHOLD = 0.5
"""Probability from which a pixel belongs to a class, for the in-domain Dice."""


def split(count: int, holdout: float, seed: int) -> tuple[list[int], list[int]]:
    """Divide ``count`` images into those to train on and those held out, each in ascending order.

    Args:
        count: number of images.
        holdout: fraction to hold out; above 0, at least one image is.
        seed: of the permutation.
    """
    held = max(1, round(holdout * count)) if holdout > 0 else 0
    order = np.random.default_rng(seed_of(seed, "holdout")).permutation(count).tolist()
    return sorted(order[held:]), sorted(order[:held])


def divide(name: str, count: int, training: TrainingConfig) -> tuple[list[int], list[int]]:
    """:func:`split` the images of a source domain.

    Raises:
        UserError: too few are left to train on.
    """
    train, held_out = split(count, training.holdout, training.seed)
    if len(train) < 2:
        raise UserError(
            f"source={name} has {count} images, {len(held_out)} of them held out: training needs at least 2; add "
            "images, raise data.limit or set training.holdout=0"
        )
    return train, held_out


def tile_by_tile(model: SegmentationModel, image: Tensor) -> Tensor:
    """Logits ``[1, channels, tiles * side, side]`` of the tiles ``[1, C, tiles * side, side]`` of an image."""
    tiles = image.shape[2] // image.shape[3]
    return stacked(torch.cat([model(tile[None]) for tile in unstacked(image, tiles)]), tiles)


def in_domain_dice(
    model: SegmentationModel, domain: Domain, indices: Sequence[int], device: torch.device
) -> dict[str, float]:
    """Mean Dice of each class, percent, of ``model`` in eval mode on some images of its own domain, scored as a run."""
    model.eval()
    scores = []
    with torch.no_grad():
        for index in indices:
            image = domain.image(index, model.preprocessing)[None].to(device)
            logits = domain.restored(tile_by_tile(model, image)[0].cpu(), index)
            scores.append(dice_score(masks(logits, model.activation, THRESHOLD), domain.truth(index)))
    return dict(zip(domain.classes, torch.stack(scores).mean(dim=0).tolist(), strict=True))


def held_out_dice(
    model: SegmentationModel, domain: Domain, indices: Sequence[int], device: torch.device
) -> dict[str, float]:
    """The in-domain Dice in the middle of a training, and its mean over classes; empty without held-out images."""
    if not indices:
        return {}
    modes = {module: module.training for module in model.modules()}
    classes = in_domain_dice(model, domain, indices, device)
    for module, mode in modes.items():
        module.training = mode
    mean = sum(classes.values()) / len(classes)
    return {"held_out_dice": mean, **{f"held_out_dice_{name}": value for name, value in classes.items()}}
