"""Say what a checkpoint is, or why it cannot be used."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from tta_bench.models.checkpoint import Checkpoint
    from tta_bench.models.segmentation import SegmentationModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The checkpoint."""
    parser.add_argument("path", type=Path)


def run(parsed: argparse.Namespace) -> None:
    """Print what it is."""
    Console(soft_wrap=True, markup=False).print(verify(parsed.path))


def verify(path: Path) -> str:
    """Read a checkpoint of either format and say what it is, one ``field: value`` per line.

    Raises:
        UserError: whatever makes it unusable.
    """
    from tta_bench.models.checkpoint import OFFICIAL_IMAGE_SIZE, mean_dice, read_checkpoint

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
        training = f"{checkpoint.training['name']}, {checkpoint.more_epochs or checkpoint.training['epochs']} epochs"
    written = f", written by tta_bench {checkpoint.version}" if checkpoint.version else ""
    exclusive = " (exclusive: softmax with a background)" if checkpoint.activation == "softmax" else ""
    twofold = f", {len(checkpoint.spottuned)} layers twice and a policy (spottunet)" if checkpoint.spottuned else ""
    rows = {
        "file": path,
        "format": checkpoint.format + written,
        "network": ", ".join(_parts(architecture)) + twofold,
        "branches": ", ".join(architecture["branches"]) or "none",
        "normalisation": f"{layers} layers, {scalars:,} affine scalars",
        "classes": ", ".join(checkpoint.classes) + exclusive,
        "image size": checkpoint.image_size or f"not recorded (the authors used {OFFICIAL_IMAGE_SIZE})",
        "fit": checkpoint.fit,
        "preprocessing": checkpoint.preprocessing,
        "domain": checkpoint.domain or "not recorded",
        "training": training,
        **({"origin": _origin(checkpoint.origin)} if checkpoint.origin else {}),
        "in-domain Dice": dice,
        "sha256": checkpoint.sha256,
    }
    return "\n".join(f"{name + ':':<16}{value}" for name, value in rows.items())


def _parts(architecture: Mapping[str, Any]) -> Iterator[str]:
    """A network's name, its encoder if it has one to choose, and the options of a plug-in's."""
    yield architecture["name"]
    if architecture.get("architecture") is not None:
        yield f"architecture {architecture['architecture']}"
    if architecture["encoder"] is not None:
        yield f"encoder {architecture['encoder']}"
    if architecture.get("norm") is not None:
        yield f"norm {architecture['norm']} at {architecture['norm_blocks']} resolutions"
    yield from (f"{key} {value}" for key, value in architecture.get("options", {}).items() if value is not None)


def _origin(origin: Mapping[str, str]) -> str:
    return f"imported from {origin['file']}, sha256 {origin['sha256']}"


def affine_size(network: SegmentationModel) -> tuple[int, int]:
    """Number of normalisation layers that can be adapted, those of branches included, and of their affine scalars."""
    from tta_bench.models.wrapping import wrap_normalisation

    layers = [layer for layer in wrap_normalisation(network).layers.values() if layer.affine]
    return len(layers), sum(layer.source_weight.numel() + layer.source_bias.numel() for layer in layers)


def _network(checkpoint: Checkpoint) -> SegmentationModel:
    """The network of a checkpoint, with random weights."""
    import torch

    from tta_bench.models.build import build_model
    from tta_bench.schema import ModelConfig

    with torch.random.fork_rng(devices=[]):  # initial weights draw from the global random state
        config = ModelConfig.model_validate(checkpoint.architecture)
        return build_model(
            config,
            len(checkpoint.classes),
            activation=checkpoint.activation,
            pretrained=False,
            spottuned=checkpoint.spottuned,
        )
