import numpy as np
import pytest

from discs import CLASSES, SIZE, noisy_discs
from sections import data_section, run_config
from tta_bench.data.domain import Domain
from tta_bench.runtime.paths import shipped
from tta_bench.schema import RunConfig
from tta_bench.source.train import source_model


@pytest.fixture(scope="session")
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
            model={"name": "unet", "encoder": "tu-test_resnet", "decoder_channels": [16, 16, 8, 8, 8]} | (model or {}),
            training=shipped("training/quick")
            | {"name": "test", "epochs": 3, "min_steps": 0, "batch_size": 2, "weight_decay": 0, "holdout": 0.25}
            | {"branch_weights": shipped("shared/branch_weights") | training.pop("branch_weights", {})}
            | {"augmentation": augmentation}
            | training,
        )

    return make


@pytest.fixture(scope="session")
def make_domain():
    """Noisy images with a bright disc, and a brighter cup in it."""

    def make(count=4, fingerprint="abc") -> Domain:
        images, masks = noisy_discs(np.random.default_rng(0), count)
        names = tuple(f"image{index}" for index in range(count))
        return Domain("A", names, images, masks, CLASSES, fingerprint)

    return make


@pytest.fixture
def learned(make_config, make_domain, tmp_path_factory, worker_id):
    """A run, its domain, and a source model that has learnt them; trained by the process that is there first."""
    ours = tmp_path_factory.getbasetemp()
    root = (ours if worker_id == "master" else ours.parent) / "learned"
    config = make_config(
        epochs=40,
        learning_rate=1e-2,
        batch_size=8,
        augmentation={"elastic": 0.0, "affine": 0.0},
    ).model_copy(update={"results_root": root})
    domain = make_domain(20)
    return config, domain, source_model(config, domain, root)
