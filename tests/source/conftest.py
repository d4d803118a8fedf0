import numpy as np
import pytest

from sections import data_section, run_config
from tta_bench.data.domain import Domain
from tta_bench.runtime.paths import shipped
from tta_bench.schema import RunConfig

SIZE = 64


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
        return run_config(
            source="A",
            device=device,
            data=data_section(name="synthetic", image_size=SIZE, classes={"disc": [1, 2], "cup": [2]}),
            model={"name": "unet", "encoder": "resnet18", "decoder_channels": [16, 16, 8, 8, 8]} | (model or {}),
            training=shipped("training/quick")
            | {"name": "test", "epochs": 3, "min_steps": 0, "batch_size": 2, "weight_decay": 0, "holdout": 0.25}
            | {"branch_weights": shipped("shared/branch_weights") | training.pop("branch_weights", {})}
            | {"augmentation": augmentation}
            | training,
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
