"""How long a source model is trained: epochs, and steps."""

from __future__ import annotations

from tta_bench.runtime.training_section import TrainingConfig

ENOUGH_IMAGES = 80
"""Training images with which the epochs of a configuration are taken at their word, unless it says ``min_steps``."""


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches of an epoch: of the images, at least two; a last batch of a single one is dropped."""
    return max(1, images // batch_size + (images % batch_size > 1))


def least_steps(training: TrainingConfig) -> int:
    """Optimiser steps that a training has at least."""
    if training.min_steps is not None:
        return training.min_steps
    return training.epochs * steps_per_epoch(ENOUGH_IMAGES, training.batch_size)


def total_epochs(training: TrainingConfig, images: int) -> int:
    """Epochs of a training on so many images: those of its configuration, or more to reach its least steps.

    The learning rate falls over all of them.
    """
    return max(training.epochs, -(-least_steps(training) // steps_per_epoch(images, training.batch_size)))


def more_epochs(training: TrainingConfig, images: int) -> int | None:
    """:func:`total_epochs` where the configuration has fewer, else None."""
    total = total_epochs(training, images)
    return total if total > training.epochs else None
