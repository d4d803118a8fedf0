import numpy as np
import pytest

from tta_bench.data.domain import Domain
from tta_bench.schema import RunConfig

SIZE = 64
BRANCH_WEIGHTS = {"reconstruction": 1.0, "denoising": 1.0, "super_resolution": 1.0, "rotation": 0.1}


@pytest.fixture
def make_config():
    """A run on a tiny network; keyword arguments change the training, ``model`` and ``device`` their parts."""

    def make(model=None, device="cpu", **training) -> RunConfig:
        augmentation = {
            "flip": 0.5,
            "affine": 0.5,
            "rotation_degrees": 15,
            "scale": [0.75, 1.25],
            "elastic": 0.5,
            "brightness": 0.5,
            "brightness_range": [0.7, 1.5],
            "noise": 0.5,
            "noise_range": [0, 5],
        } | training.pop("augmentation", {})
        return RunConfig.model_validate(
            {
                "method": {"name": "none"},
                "source": "A",
                "seed": 0,
                "metrics": "dice",
                "diagnostics": {"empirical_gradient": False},
                "force": False,
                "lockstep": "auto",
                "precision": "f32",
                "tune": False,
                "launch": {"devices": "auto", "cells_per_device": 1},
                "data": {
                    "name": "synthetic",
                    "image_size": SIZE,
                    "classes": {"disc": [1, 2], "cup": [2]},
                    "max_pixels": 10**6,
                    "exclusive": False,
                    "seed": 0,
                },
                "model": {"name": "unet", "encoder": "resnet18", "decoder_channels": [16, 16, 8, 8, 8]} | (model or {}),
                "training": {
                    "name": "test",
                    "epochs": 3,
                    "min_steps": 0,
                    "batch_size": 2,
                    "optimizer": "adam",
                    "learning_rate": 1e-3,
                    "momentum": 0,
                    "nesterov": False,
                    "weight_decay": 0,
                    "schedule_power": 0.9,
                    "holdout": 0.25,
                    "seed": 0,
                    "workers": 0,
                    "legacy_unaligned_mask": False,
                    "branch_weights": BRANCH_WEIGHTS | training.pop("branch_weights", {}),
                    "augmentation": augmentation,
                }
                | training,
                "protocol": {
                    "name": "online",
                    "reset": "target",
                    "steps": 1,
                    "predict": "after",
                    "order": 0,
                    "threshold": 0.5,
                    "empty": "one",
                },
                "logger": {},
                "results_root": "outputs",
                "device": device,
            }
        )

    return make


@pytest.fixture
def make_domain():
    """Noisy images with a bright disc, and a brighter cup in it."""

    def make(count=4, fingerprint="abc") -> Domain:
        rng = np.random.default_rng(0)
        y, x = np.mgrid[:SIZE, :SIZE]
        images = rng.integers(0, 40, (count, SIZE, SIZE, 3), dtype=np.uint8)
        masks = np.zeros((count, SIZE, SIZE), dtype=np.uint8)
        for index in range(count):
            row, column = rng.integers(24, 40, 2)
            distance = np.hypot(y - row, x - column)
            masks[index] = (distance < 18).astype(np.uint8) + (distance < 9)
            images[index] += (100 * masks[index])[..., None]
        names = tuple(f"image{index}" for index in range(count))
        return Domain("A", names, images, masks, {"disc": (1, 2), "cup": (2,)}, fingerprint)

    return make
