"""Small images that a network learns in seconds: a bright disc on noise, and a brighter cup in it."""

import numpy as np
import torch

from tta_bench.data.domain import Domain

CLASSES = {"disc": (1, 2), "cup": (2,)}
SIZE = 64


def noisy_discs(rng, count, brightness=100):
    """Images uint8 ``[count, 64, 64, 3]`` and mask values ``[count, 64, 64]``."""
    y, x = np.mgrid[:SIZE, :SIZE]
    images = rng.integers(0, 40, (count, SIZE, SIZE, 3), dtype=np.uint8)
    masks = np.zeros((count, SIZE, SIZE), np.uint8)
    for index in range(count):
        row, column = rng.integers(24, 40, 2)
        distance = np.hypot(y - row, x - column)
        masks[index] = (distance < 18).astype(np.uint8) + (distance < 9)
        images[index] += (brightness * masks[index])[..., None].astype(np.uint8)
    return images, masks


def discs(name, count=4, brightness=100):
    """A domain of them, others for every name."""
    images, masks = noisy_discs(np.random.default_rng([ord(letter) for letter in name]), count, brightness)
    return Domain(name, tuple(f"{name}{k}" for k in range(count)), images, masks, CLASSES, f"print of {name}")


def gathered_of(model):
    """What Adam has gathered after a step, by the names of the parameters."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: {
            "step": torch.tensor(1.0),
            "exp_avg": torch.randn(each.shape, generator=generator) * 1e-3,
            "exp_avg_sq": torch.rand(each.shape, generator=generator) * 1e-4,
        }
        for name, each in model.named_parameters()
    }
