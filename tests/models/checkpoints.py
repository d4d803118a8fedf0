"""Checkpoints of an untrained network, our own and as the authors of GraTa wrote theirs."""

from pathlib import Path

import torch

import sections
from tta_bench.models.build import build_model
from tta_bench.models.checkpoint import save_checkpoint, to_official
from tta_bench.models.checkpoint.official import OFFICIAL_BRANCHES
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.ops.preprocessing import PAPER
from tta_bench.schema import RunConfig

AUGMENTATION = {
    "flip": 0.5,
    "affine": 0,
    "rotation_degrees": 0,
    "scale": [1, 1],
    "elastic": 0,
    "brightness": 0,
    "brightness_range": [1, 1],
    "noise": 0,
    "noise_range": [0, 0],
}
TRAINING = {
    "name": "test",
    "epochs": 2,
    "batch_size": 2,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "momentum": 0,
    "nesterov": False,
    "weight_decay": 0,
    "schedule_power": 0.9,
    "holdout": 0,
    "seed": 0,
    "workers": 0,
    "legacy_unaligned_mask": False,
    "branch_weights": {"reconstruction": 1.0, "denoising": 1.0, "super_resolution": 1.0, "rotation": 0.1},
    "augmentation": AUGMENTATION,
}
UNET = {"name": "unet", "encoder": "tu-test_resnet", "decoder_channels": [16, 16, 8, 8, 8]}
RESUNET = {"name": "resunet34", "encoder": "resnet34"}
CLASSES = {"disc": [1, 2], "cup": [2]}


def run_config(model=None, *, source="A", **data) -> RunConfig:
    return sections.run_config(
        source=source,
        data=sections.data_section(**{"name": "synthetic", "classes": CLASSES, **data}),
        model=model or UNET,
        training=TRAINING,
    )


def write(path: Path, config: RunConfig, state=None, **changes) -> Path:
    if state is None:
        torch.manual_seed(0)
        state = build_model(config.model, len(config.data.classes)).state_dict()
    fields = {
        "architecture": config.model.model_dump(mode="json"),
        "preprocessing": PAPER,
        "classes": config.data.classes,
        "image_size": config.data.image_size,
        "domain": config.source,
        "fingerprint": "abc",
        "training": config.training.model_dump(mode="json"),
        "dice_in_domain_per_class": {"disc": 90.0, "cup": 80.0},
    }
    save_checkpoint(path, state, **(fields | changes))
    return path


def official_state() -> dict[str, torch.Tensor]:
    """The authors' state dict as our network in the inverse direction, and their unused classifier."""
    torch.manual_seed(0)
    state = ResUNet(2, branches=OFFICIAL_BRANCHES).state_dict()
    return {to_official(key): value for key, value in state.items()} | {
        "res.fc.weight": torch.zeros(1000, 512),
        "res.fc.bias": torch.zeros(1000),
    }


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")
