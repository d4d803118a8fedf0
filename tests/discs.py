"""Small images that a network learns in seconds: a bright disc on noise, and a brighter cup in it."""

from dataclasses import replace

import numpy as np
import torch

from tta_bench.data.domain import Domain

CLASSES = {"disc": (1, 2), "cup": (2,)}
SIZE = 64
CAMERAS = {"A": (1, 1, 0, 0), "B": (1.3, 0.85, 0.05, 0.1), "C": (0.5, 0.65, 0.25, 0.35), "D": (2.2, 0.5, 0, 0.5)}
"""Gamma, contrast, brightness and bias of centres: no change, a subtle one, and two severe ones."""


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


def camera(name, count, of=None):
    """Discs as a centre shows them: a gamma curve, a contrast, an offset and a ramp of light.

    ``name`` decides which discs, ``of`` is the centre where that is another name.
    """
    gamma, contrast, brightness, bias = CAMERAS[of or name]
    domain = discs(name, count)
    light = bias * np.linspace(-0.5, 0.5, domain.side)[None, None, :, None]
    images = contrast * (domain.images / 255.0) ** gamma + brightness + light
    return replace(domain, images=(255 * images.clip(0, 1)).astype(np.uint8))


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
