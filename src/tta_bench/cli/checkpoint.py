"""What ``tta-bench checkpoint verify`` and ``tta-bench checkpoint import`` do."""

from __future__ import annotations

from pathlib import Path

import torch

from tta_bench.errors import UserError
from tta_bench.models.build import build_model
from tta_bench.models.checkpoint import (
    OFFICIAL,
    OFFICIAL_IMAGE_SIZE,
    Checkpoint,
    mean_dice,
    read_checkpoint,
    save_checkpoint,
)
from tta_bench.models.segmentation import SegmentationModel
from tta_bench.models.wrapping import wrap_normalisation

OFFICIAL_MASK_VALUES = {"disc": (1, 2), "cup": (2,)}
"""Values of the authors' masks after decoding, as in ``conf/data/fundus.yaml``."""


def verify(path: Path) -> str:
    """Read a checkpoint of either format and say what it is, one ``field: value`` per line.

    Raises:
        UserError: whatever makes it unusable.
    """
    checkpoint = read_checkpoint(path)
    layers, scalars = affine_size(_network(checkpoint))
    architecture = checkpoint.architecture
    per_class = checkpoint.dice_in_domain_per_class
    dice = "not measured"
    if per_class:
        parts = ", ".join(f"{name} {value:.2f}" for name, value in per_class.items())
        dice = f"{mean_dice(per_class):.2f} % ({parts})"
    training = "not recorded"
    if checkpoint.training:
        training = f"{checkpoint.training['name']}, {checkpoint.training['epochs']} epochs"
    written = f", written by tta_bench {checkpoint.version}" if checkpoint.version else ""
    rows = {
        "file": path,
        "format": checkpoint.format + written,
        "network": f"{architecture['name']}, encoder {architecture['encoder']}",
        "branches": ", ".join(architecture["branches"]) or "none",
        "normalisation": f"{layers} layers, {scalars:,} affine scalars",
        "classes": ", ".join(checkpoint.classes),
        "image size": checkpoint.image_size or f"not recorded (the authors used {OFFICIAL_IMAGE_SIZE})",
        "domain": checkpoint.domain or "not recorded",
        "training": training,
        "in-domain Dice": dice,
        "sha256": checkpoint.sha256,
    }
    return "\n".join(f"{name + ':':<16}{value}" for name, value in rows.items())


def import_official(official: Path, out: Path, domain: str) -> Checkpoint:
    """Write the authors' state dict as a checkpoint of this project; returns what was written.

    Args:
        official: the authors' ``last-Res_Unet.pth``.
        out: the file to write; an existing one is never overwritten.
        domain: name of the domain it was trained on, for instance ``A``; the file does not say.

    Raises:
        UserError: ``out`` exists, or ``official`` is not the authors' network.
    """
    if out.exists():
        raise UserError(f"{out} exists: give another name, or remove it")
    checkpoint = read_checkpoint(official)
    if checkpoint.format != OFFICIAL:
        raise UserError(f"{official} is a checkpoint of tta_bench already: use checkpoint={official}")
    save_checkpoint(
        out,
        checkpoint.state,
        architecture=checkpoint.architecture,
        classes=OFFICIAL_MASK_VALUES,
        image_size=OFFICIAL_IMAGE_SIZE,
        domain=domain,
        fingerprint=None,
        training=None,
        dice_in_domain_per_class=None,
    )
    return read_checkpoint(out)


def affine_size(network: SegmentationModel) -> tuple[int, int]:
    """Number of normalisation layers that can be adapted, those of branches included, and of their affine scalars."""
    layers = [layer for layer in wrap_normalisation(network).layers.values() if layer.affine]
    return len(layers), sum(layer.source_weight.numel() + layer.source_bias.numel() for layer in layers)


def _network(checkpoint: Checkpoint) -> SegmentationModel:
    """The network of a checkpoint, with random weights."""
    from tta_bench.schema import ModelConfig

    with torch.random.fork_rng(devices=[]):  # initial weights draw from the global random state
        config = ModelConfig.model_validate(checkpoint.architecture)
        return build_model(config, len(checkpoint.classes), pretrained=False)
