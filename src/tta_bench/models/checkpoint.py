"""Source models on disk: the workbench's own checkpoint and the GraTa authors' state dict.

Both are read with ``weights_only=True``: a file that would execute code is refused, never executed.
"""

from __future__ import annotations

import hashlib
import io
import logging
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tta_bench.errors import UserError
from tta_bench.models.build import build_model
from tta_bench.models.checkpoint_schema import description_faults
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.models.segmentation import NETWORKS, SegmentationModel
from tta_bench.models.weights import shapes_of, state_faults, value_faults
from tta_bench.runtime.files import write_atomically
from tta_bench.runtime.torch_file import TorchFileError, read_torch_file

if TYPE_CHECKING:
    from tta_bench.schema import ModelConfig, RunConfig

log = logging.getLogger(__name__)

FORMAT = "tta_bench source model"
FORMAT_VERSION = 1
PREPROCESSING = "min-max per image"
"""What every model of the workbench expects: see :func:`tta_bench.ops.preprocessing.min_max`."""

OFFICIAL = "official ResUNet-34 state dict"
OFFICIAL_BRANCHES = ("reconstruction", "denoising", "super_resolution", "rotation")
OFFICIAL_CLASSES = ("disc", "cup")
OFFICIAL_IMAGE_SIZE = 512

OFFICIAL_PREFIXES: tuple[tuple[str, str], ...] = (
    ("res.", "encoder."),
    *(
        (f"{theirs}{block + 1}.", f"branches.{ours}.trunk.{block}.")
        for theirs, ours in (
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


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds; a field that the file does not record is None.

    Attributes:
        path: the file.
        sha256: of the file's bytes.
        format: :data:`FORMAT` or :data:`OFFICIAL`.
        architecture: fields of ``ModelConfig``.
        classes: class name -> mask values that belong to it; no values where the file records none.
        image_size: side of the square input, pixels.
        domain: name of the domain it was trained on.
        fingerprint: of that domain's images and masks.
        training: fields of ``TrainingConfig``.
        dice_in_domain_per_class: percent on held-out images of the domain.
        version: of tta_bench, when the file was written.
        state: the network's state dict, with this project's names.
    """

    path: Path
    sha256: str
    format: str
    architecture: Mapping[str, Any]
    classes: Mapping[str, tuple[int, ...]]
    image_size: int | None
    domain: str | None
    fingerprint: str | None
    training: Mapping[str, Any] | None
    dice_in_domain_per_class: Mapping[str, float] | None
    version: str | None
    state: Mapping[str, Tensor]


@dataclass(frozen=True)
class SourceModel:
    """A source model, ready to adapt.

    Attributes:
        model: the network, in eval mode on the CPU.
        path: the file it came from.
        sha256: of that file.
        domain: name of the domain it was trained on.
        classes: class name -> mask values, one output channel each.
        image_size: side of the square input, pixels.
        dice_in_domain_per_class: percent on held-out images of the domain; None where not measured.
        training: how it was trained, fields of ``TrainingConfig``; None where not recorded.
        fingerprint: of the domain's data; None where not recorded.
    """

    model: SegmentationModel
    path: Path
    sha256: str
    domain: str
    classes: Mapping[str, tuple[int, ...]]
    image_size: int
    dice_in_domain_per_class: Mapping[str, float] | None
    training: Mapping[str, Any] | None
    fingerprint: str | None

    @property
    def dice_in_domain(self) -> float | None:
        """Mean over the classes of the in-domain Dice, percent; None where not measured."""
        return mean_dice(self.dice_in_domain_per_class)


def mean_dice(per_class: Mapping[str, float] | None) -> float | None:
    """Unweighted mean over classes, or None where nothing was measured."""
    return sum(per_class.values()) / len(per_class) if per_class else None


def save_checkpoint(
    path: Path,
    state: Mapping[str, Tensor],
    *,
    architecture: Mapping[str, Any],
    classes: Mapping[str, Sequence[int]],
    image_size: int,
    domain: str,
    fingerprint: str | None,
    training: Mapping[str, Any] | None,
    dice_in_domain_per_class: Mapping[str, float] | None,
) -> None:
    """Write the workbench's own format under a temporary name, then rename: never half a file.

    Args:
        path: the file to write; its folder is made.
        state: ``model.state_dict()``.
        architecture: fields of ``ModelConfig``, plain values.
        classes: class name -> mask values.
        image_size: side of the square input, pixels.
        domain: name of the source domain.
        fingerprint: of its data, or None where unknown.
        training: fields of ``TrainingConfig``, plain values, or None where unknown.
        dice_in_domain_per_class: percent, or None where not measured.
    """
    from tta_bench import __version__

    payload = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "tta_bench": __version__,
        "architecture": dict(architecture),
        "classes": {name: list(values) for name, values in classes.items()},
        "image_size": image_size,
        "preprocessing": PREPROCESSING,
        "domain": domain,
        "fingerprint": fingerprint,
        "training": None if training is None else dict(training),
        "dice_in_domain": None if dice_in_domain_per_class is None else dict(dice_in_domain_per_class),
        "state": {key: value.detach().cpu().contiguous().clone() for key, value in state.items()},
    }
    # Through memory, because torch.save writes the file's name into the archive: equal models, equal bytes.
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    write_atomically(path, buffer.getvalue())


def read_checkpoint(path: Path) -> Checkpoint:
    """Read either format and check all that needs no configuration.

    Raises:
        UserError: no such file, truncated, not PyTorch's, would execute code, incomplete, an unknown version,
            not the authors' network, not the network that it says, or weights that no network can have.
    """
    try:
        content = read_torch_file(path)
    except TorchFileError as error:
        raise UserError(f"checkpoint {path} {error}") from None
    sha256 = _sha256(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        checkpoint = _read_own(path, sha256, content)
    else:
        checkpoint = _read_official(path, sha256, content)
    faults = value_faults(checkpoint.state)
    if faults:
        raise UserError(
            [
                f"checkpoint {path}: {fault}: the training diverged or the file was edited; train it again, for "
                "instance with a lower training.learning_rate"
                for fault in faults
            ]
        )
    return checkpoint


def load_checkpoint(path: Path, config: RunConfig) -> SourceModel:
    """Load a source model of either format for a run.

    Branches that the run does not ask for are left in the file.

    Args:
        path: the checkpoint.
        config: the run it must fit: architecture, classes, image size and source domain.

    Raises:
        UserError: all that does not fit, each with the file, the field, both values and the remedy.
    """
    checkpoint = read_checkpoint(path)
    faults = [
        *_architecture_faults(checkpoint, config.model),
        *_class_faults(checkpoint, config.data.classes),
        *_image_size_faults(checkpoint, config.data.image_size),
    ]
    if checkpoint.domain is not None and checkpoint.domain != config.source:
        faults.append(
            f"its domain is {checkpoint.domain}, but source={config.source}: "
            f"use source={checkpoint.domain}, or the checkpoint of {config.source}"
        )
    if faults:
        raise UserError([f"checkpoint {path}: {fault}" for fault in faults])

    with torch.random.fork_rng(devices=[]):  # initial weights draw from the global random state
        model = build_model(config.model, len(config.data.classes), pretrained=False)
    model.load_state_dict(without_branches(checkpoint.state, keep=config.model.branches))
    model.eval()
    return SourceModel(
        model=model,
        path=path,
        sha256=checkpoint.sha256,
        domain=config.source,
        classes=config.data.classes,
        image_size=config.data.image_size,
        dice_in_domain_per_class=checkpoint.dice_in_domain_per_class,
        training=checkpoint.training,
        fingerprint=checkpoint.fingerprint,
    )


def without_branches(state: Mapping[str, Tensor], keep: Sequence[str]) -> dict[str, Tensor]:
    """The state dict without the branches that are not in ``keep``."""
    return {key: value for key, value in state.items() if not key.startswith("branches.") or key.split(".")[1] in keep}


def _read_own(path: Path, sha256: str, content: dict[str, Any]) -> Checkpoint:
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"checkpoint {path}: its format_version is {reprlib.repr(version)}, this tta_bench reads {FORMAT_VERSION}: "
            "use the tta_bench that wrote it, or train it again"
        )
    if content.get("preprocessing") != PREPROCESSING:
        raise UserError(
            f"checkpoint {path}: its preprocessing is {reprlib.repr(content.get('preprocessing'))}, this tta_bench has "
            f"'{PREPROCESSING}': use the tta_bench that wrote it"
        )
    faults = description_faults(content)
    if faults:
        raise UserError([f"checkpoint {path} {fault}: it was edited or damaged; train it again" for fault in faults])
    faults = state_faults(content["state"], _shapes(path, content["architecture"], len(content["classes"])))
    if faults:
        raise UserError([f"checkpoint {path}: {fault}: the file is damaged; train it again" for fault in faults])
    return Checkpoint(
        path=path,
        sha256=sha256,
        format=FORMAT,
        architecture=content["architecture"],
        classes={name: tuple(values) for name, values in content["classes"].items()},
        image_size=content["image_size"],
        domain=content["domain"],
        fingerprint=content["fingerprint"],
        training=content["training"],
        dice_in_domain_per_class=content["dice_in_domain"],
        version=content["tta_bench"],
        state=content["state"],
    )


def _shapes(path: Path, architecture: Mapping[str, Any], classes: int) -> dict[str, Tensor]:
    """The weights of the network that a checkpoint of ours describes, without their values."""
    from tta_bench.schema import ModelConfig

    # Taken as it is: whether encoder weights can be had on this machine does not matter any more.
    config = ModelConfig.model_construct(**architecture)
    try:
        return shapes_of(lambda: build_model(config, classes, pretrained=False))
    except UserError as error:
        raise UserError([f"checkpoint {path}: {fault}" for fault in error.faults]) from None


def _read_official(path: Path, sha256: str, content: Any) -> Checkpoint:
    """The authors' plain state dict, bare or wrapped, with or without DataParallel's prefix."""
    for wrapper in ("state_dict", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    neither = UserError(
        f"checkpoint {path} is neither a checkpoint of tta_bench nor the GraTa authors' ResUNet-34: "
        "other state dicts cannot be used; without checkpoint= a source model is trained"
    )
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise neither
    parallel = all(key.startswith("module.") for key in content)
    state = {key.removeprefix("module.") if parallel else key: value for key, value in content.items()}
    state = {key: value for key, value in state.items() if not key.startswith(OFFICIAL_UNUSED)}
    network = shapes_of(lambda: ResUNet(len(OFFICIAL_CLASSES), branches=OFFICIAL_BRANCHES))
    expected = {to_official(key): value for key, value in network.items()}
    if len(expected.keys() & state.keys()) < len(expected) / 2:
        raise neither
    faults = state_faults(state, expected)
    if faults:
        raise UserError([f"checkpoint {path} is not the GraTa authors' ResUNet-34: {fault}" for fault in faults])
    return Checkpoint(
        path=path,
        sha256=sha256,
        format=OFFICIAL,
        architecture={
            "name": "resunet34",
            "encoder": "resnet34",
            "encoder_weights": "imagenet",
            "decoder_channels": None,
            "branches": list(OFFICIAL_BRANCHES),
        },
        classes=dict.fromkeys(OFFICIAL_CLASSES, ()),
        image_size=None,
        domain=None,
        fingerprint=None,
        training=None,
        dice_in_domain_per_class=None,
        version=None,
        state={from_official(key): value for key, value in state.items()},
    )


def from_official(key: str) -> str:
    """Our name of one of the authors' weights."""
    return _rename(key, OFFICIAL_PREFIXES)


def to_official(key: str) -> str:
    """The authors' name of one of our weights."""
    return _rename(key, [(ours, theirs) for theirs, ours in OFFICIAL_PREFIXES])


def _rename(key: str, prefixes: Sequence[tuple[str, str]]) -> str:
    for old, new in prefixes:
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


def _architecture_faults(checkpoint: Checkpoint, model: ModelConfig) -> list[str]:
    has = checkpoint.architecture
    if has["name"] != model.name:
        return [
            f"its network is {has['name']}, but model={model.name}: use model={has['name']}, "
            f"or a checkpoint of {model.name}"
        ]
    faults = NETWORKS.get(model.name).differences(has, model)
    missing = [name for name in model.branches if name not in has["branches"]]
    if missing:
        available = ", ".join(has["branches"]) or "none"
        faults.append(
            f"it has no branch {', '.join(missing)} (it has: {available}), but model.branches asks for it: "
            "remove it there, or train with it"
        )
    return faults


def _class_faults(checkpoint: Checkpoint, classes: Mapping[str, Sequence[int]]) -> list[str]:
    if list(checkpoint.classes) != list(classes):
        has, asked = ", ".join(checkpoint.classes), ", ".join(classes)
        return [
            f"its classes are {has}, but data.classes are {asked}: name the same classes in the same order, "
            "or use a checkpoint of these classes"
        ]
    # The values are how files code a class, so two data sets may differ in them and still mean the same.
    for name, values in checkpoint.classes.items():
        if values and set(values) != set(classes[name]):
            log.warning(
                "checkpoint %s learnt class %s from mask values %s, data.classes.%s is %s: make sure that "
                "they mean the same",
                checkpoint.path,
                name,
                list(values),
                name,
                list(classes[name]),
            )
    return []


def _image_size_faults(checkpoint: Checkpoint, image_size: int) -> list[str]:
    if checkpoint.image_size is None:
        if image_size != OFFICIAL_IMAGE_SIZE:
            log.warning(
                "checkpoint %s records no image size; its authors used %d pixels, data.image_size=%d",
                checkpoint.path,
                OFFICIAL_IMAGE_SIZE,
                image_size,
            )
        return []
    if checkpoint.image_size != image_size:
        return [
            f"its image size is {checkpoint.image_size}, but data.image_size={image_size}: "
            f"use data.image_size={checkpoint.image_size}"
        ]
    return []


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
