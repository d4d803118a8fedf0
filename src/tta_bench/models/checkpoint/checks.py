"""Whether a checkpoint fits a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tta_bench.models.build import preprocessing_of
from tta_bench.models.checkpoint.content import Description
from tta_bench.models.checkpoint.official import OFFICIAL_IMAGE_SIZE
from tta_bench.models.segmentation import NETWORKS
from tta_bench.ops.geometry import Fit
from tta_bench.ops.preprocessing import Preprocessing

if TYPE_CHECKING:
    from tta_bench.runtime.sections import PreprocessingConfig
    from tta_bench.schema import DataConfig, ModelConfig, RunConfig

log = logging.getLogger(__name__)


def misfits(checkpoint: Description, config: RunConfig) -> list[str]:
    """All that does not fit, as ends of sentences with the field, both values and the remedy."""
    faults = [
        *_architecture_faults(checkpoint, config.model),
        *_preprocessing_faults(checkpoint.preprocessing, config.model.preprocessing),
        *_class_faults(checkpoint, config.data.classes),
        *_activation_faults(checkpoint, config.data),
        *_image_size_faults(checkpoint, config.data.image_size),
        *_fit_faults(checkpoint, config.data.fit),
    ]
    if checkpoint.domain is not None and checkpoint.domain != config.source:
        faults.append(
            f"its domain is {checkpoint.domain}, but source={config.source}: "
            f"use source={checkpoint.domain}, or the checkpoint of {config.source}"
        )
    return faults


def _architecture_faults(checkpoint: Description, model: ModelConfig) -> list[str]:
    architecture = checkpoint.architecture
    if architecture["name"] != model.name:
        return [
            f"its network is {architecture['name']}, but model={model.name}: use model={architecture['name']}, "
            f"or a checkpoint of {model.name}"
        ]
    faults = NETWORKS.get(model.name).differences(architecture, model)
    stored, asked = architecture.get("channels") or 3, model.channels or 3
    if stored != asked:
        faults.append(f"its images have {stored} channels, but model.channels={asked}: use model.channels={stored}")
    for key in ("norm", "norm_blocks") if model.norm or architecture.get("norm") else ():
        was, wanted = (("null" if value is None else value) for value in (architecture.get(key), getattr(model, key)))
        if was != wanted and (key == "norm" or architecture.get("norm") == model.norm):
            faults.append(f"its {key} is {was}, but model.{key}={wanted}: use model.{key}={was}")
    missing = [name for name in model.branches if name not in architecture["branches"]]
    if missing:
        available = ", ".join(architecture["branches"]) or "none"
        faults.append(
            f"it has no branch {', '.join(missing)} (it has: {available}), but model.branches asks for it: "
            "remove it there, or train with it"
        )
    return faults


def _preprocessing_faults(stored: Preprocessing, config: PreprocessingConfig | None) -> list[str]:
    """A checkpoint brings its own: only one that was asked for can be another."""
    asked = preprocessing_of(config)
    if config is None or asked == stored:
        return []
    return [
        f"its preprocessing is {stored}, but model.preprocessing is {asked}: leave preprocessing out, which takes the "
        "checkpoint's, or use a checkpoint of that preprocessing"
    ]


def _class_faults(checkpoint: Description, classes: Mapping[str, Sequence[int]]) -> list[str]:
    if list(checkpoint.classes) != list(classes):
        stored, asked = ", ".join(checkpoint.classes), ", ".join(classes)
        return [
            f"its classes are {stored}, but data.classes are {asked}: name the same classes in the same order, "
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


def _activation_faults(checkpoint: Description, data: DataConfig) -> list[str]:
    if checkpoint.activation == data.activation:
        return []
    stored = {"sigmoid": "are each on their own", "softmax": "exclude each other"}[checkpoint.activation]
    exclusive = str(data.exclusive).lower()
    return [
        f"its classes {stored} ({checkpoint.activation}), but data.exclusive={exclusive}: "
        f"use data.exclusive={str(not data.exclusive).lower()}, or a checkpoint trained with data.exclusive={exclusive}"
    ]


def _image_size_faults(checkpoint: Description, image_size: int) -> list[str]:
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


def _fit_faults(checkpoint: Description, fit: Fit) -> list[str]:
    """A network has learnt shapes as they were shown to it; a file that records no size records no fit."""
    if checkpoint.fit == fit:
        return []
    if checkpoint.image_size is None:
        log.warning("checkpoint %s was trained on stretched images, data.fit=%s", checkpoint.path, fit)
        return []
    return [f"its images were fitted by {checkpoint.fit}, but data.fit={fit}: use data.fit={checkpoint.fit}"]
