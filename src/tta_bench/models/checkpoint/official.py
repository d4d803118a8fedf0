"""The GraTa authors' ``last-Res_Unet.pth``: a plain state dict of their ResUNet-34 with all branches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.models.checkpoint.content import Description
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.pretext import PRETEXT_TASKS
from tta_bench.models.weights import shapes_of, state_faults

OFFICIAL = "official ResUNet-34 state dict"
OFFICIAL_BRANCHES = ("reconstruction", "denoising", "super_resolution", "rotation")
OFFICIAL_CLASSES = ("disc", "cup")
OFFICIAL_IMAGE_SIZE = 512

OFFICIAL_PREFIXES: tuple[tuple[str, str], ...] = (
    ("res.", "encoder."),
    *(
        (f"{official}{block + 1}.", f"branches.{branch}.trunk.{block}.")
        for official, branch in (
            ("recon", "reconstruction"),
            ("denoise", "denoising"),
            ("supres", "super_resolution"),
        )
        for block in range(4)
    ),
    ("recon_head.", "branches.reconstruction.head."),
    ("denoise_head.", "branches.denoising.head."),
    ("supres_head.", "branches.super_resolution.head."),
    ("rotate_head.0.", "branches.rotation.linear1."),
    ("rotate_head.2.", "branches.rotation.linear2."),
    ("rotate_head.4.", "branches.rotation.linear3."),
)
"""(prefix in the authors' state dict, prefix in ours); every other key is the same in both."""

OFFICIAL_UNUSED = "res.fc."
"""The ImageNet classifier that the authors' network carries and never calls."""


def describe(path: Path, content: Any) -> Description:
    """What is known of the authors' models; the file itself says nothing."""
    return Description(
        path=path,
        format=OFFICIAL,
        architecture={
            "name": "resunet34",
            "encoder": "resnet34",
            "encoder_weights": "imagenet",
            "decoder_channels": None,
            "branches": list(OFFICIAL_BRANCHES),
        },
        classes=dict.fromkeys(OFFICIAL_CLASSES, ()),
    )


def weights(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dict, bare or wrapped, with or without DataParallel's prefix, under this project's names.

    Raises:
        UserError: it is not that of the authors' network.
    """
    for wrapper in ("state_dict", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    neither = UserError(
        f"checkpoint {path} is neither a checkpoint of tta_bench nor the GraTa authors' ResUNet-34: "
        "any other state dict becomes one by 'tta-bench checkpoint import FILE OUT model=NAME "
        "data.classes={NAME: [VALUE]} data.image_size=PIXELS preprocessing=NAME'; without checkpoint= "
        "a source model is trained"
    )
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise neither
    parallel = all(key.startswith("module.") for key in content)
    state = {key.removeprefix("module.") if parallel else key: value for key, value in content.items()}
    state = {key: value for key, value in state.items() if not key.startswith(OFFICIAL_UNUSED)}
    PRETEXT_TASKS.names()  # loaded before the device is meta
    network = shapes_of(lambda: ResUNet(len(OFFICIAL_CLASSES), branches=OFFICIAL_BRANCHES))
    expected = {to_official(key): value for key, value in network.items()}
    if len(expected.keys() & state.keys()) < len(expected) / 2:
        raise neither
    faults = state_faults(state, expected)
    if faults:
        raise UserError([f"checkpoint {path} is not the GraTa authors' ResUNet-34: {fault}" for fault in faults])
    return {from_official(key): value for key, value in state.items()}


def from_official(key: str) -> str:
    """Our name of one of the authors' weights."""
    return _rename(key, OFFICIAL_PREFIXES)


def to_official(key: str) -> str:
    """The authors' name of one of our weights."""
    return _rename(key, [(new, old) for old, new in OFFICIAL_PREFIXES])


def _rename(key: str, prefixes: Sequence[tuple[str, str]]) -> str:
    for old, new in prefixes:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
