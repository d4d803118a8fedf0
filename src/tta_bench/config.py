"""The typed schema of a run: every key, its type and its range, checked before work starts.

Hydra composes the configuration from ``conf/``; :func:`validate` turns it into the frozen models below and
reports all faults at once, each with the nearest valid name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tta_bench.errors import UserError, nearest
from tta_bench.methods.base import METHODS, MethodOptions
from tta_bench.models.encoder import check_encoder
from tta_bench.models.unet import DECODER_CHANNELS

BRANCHES = ("reconstruction", "denoising", "super_resolution", "rotation")
"""Optional auxiliary branches of a segmentation network."""

PRESETS = ("uniform", "official")
"""Hyper-parameters that are equal for all methods where they can be, or those of a method's own authors."""

Fraction = Annotated[float, Field(ge=0, le=1)]


def as_tuple(value: Any) -> Any:
    """Accept ``A``, ``'A,C'`` and ``[A, C]`` for a list of names or numbers."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, int):
        return (value,)
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(as_tuple), Field(min_length=1)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class DataConfig(Section):
    """Which images, read how (``conf/data``)."""

    name: Literal["synthetic", "folder", "fundus"]
    root: Path | None = None
    image_size: int = Field(ge=64, multiple_of=32, description="side of the square network input, pixels")
    limit: int | None = Field(default=None, ge=1, description="keep the first N images of each domain")
    classes: Annotated[
        dict[str, tuple[Annotated[int, Field(ge=0, le=255)], ...]],
        BeforeValidator(lambda value: {"foreground": (1,)} if value is None else value),
        Field(min_length=1),
    ]
    domains: dict[str, str] | None = Field(default=None, description="fundus: domain name -> file prefix")
    seed: int = Field(default=0, ge=0, description="synthetic: seed of the generated images")

    @model_validator(mode="after")
    def _root_where_needed(self) -> DataConfig:
        if self.name != "synthetic" and self.root is None:
            raise ValueError(f"data={self.name} needs the folder of the images: add data.root=DIR")
        empty = [name for name, values in self.classes.items() if not values]
        if empty:
            raise ValueError(f"data.classes.{empty[0]} lists no mask value; example: {{foreground: [1]}}")
        return self


class ModelConfig(Section):
    """The segmentation network (``conf/model``)."""

    name: Literal["resunet34", "unet"]
    encoder: str
    encoder_weights: str | None = None
    decoder_channels: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    branches: tuple[Literal["reconstruction", "denoising", "super_resolution", "rotation"], ...] = ()

    @model_validator(mode="after")
    def _encoder_exists(self) -> ModelConfig:
        check_encoder(self.encoder)
        if self.decoder_channels is not None and len(self.decoder_channels) != len(DECODER_CHANNELS):
            widths = list(self.decoder_channels)
            raise ValueError(f"model.decoder_channels={widths} has {len(widths)} widths: give five, coarse to fine")
        return self


class AugmentationConfig(Section):
    """Augmentation of source images; ``p`` is the probability of each operation per image."""

    flip: Fraction
    affine: Fraction
    rotation_degrees: float = Field(ge=0, le=180)
    scale: tuple[float, float]
    elastic: Fraction
    brightness: Fraction
    brightness_range: tuple[float, float]
    noise: Fraction
    noise_range: tuple[float, float] = Field(description="standard deviation, in grey levels of 0-255")


class TrainingConfig(Section):
    """How the source model is trained (``conf/training``)."""

    name: str
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    optimizer: Literal["sgd", "adam"]
    learning_rate: float = Field(gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(ge=0)
    schedule_power: float = Field(ge=0, description="lr * (1 - epoch / epochs) ** power")
    holdout: float = Field(ge=0, lt=1, description="fraction of source images kept for the in-domain Dice")
    seed: int = Field(ge=0)
    workers: int = Field(ge=0, description="processes that augment images; changes speed only")
    legacy_unaligned_mask: bool = False
    augmentation: AugmentationConfig


class ProtocolConfig(Section):
    """All that must be equal for two numbers to be compared (``conf/protocol``)."""

    name: str
    reset: Literal["target", "image", "never"]
    steps: int = Field(ge=1, description="updates per image")
    predict: Literal["after", "before"]
    threshold: float = Field(gt=0, lt=1)


class LoggerConfig(Section):
    """Where records go besides the results folder (``conf/logger``)."""

    name: Literal["none", "wandb"]
    project: str = "tta_bench"
    entity: str | None = None
    group: str | None = None
    mode: Literal["online", "offline"] = "online"


class RunConfig(Section):
    """One fully resolved run."""

    method: dict[str, Any]
    source: str
    target: Names | None = None
    seed: Seeds = (0,)
    checkpoint: Path | None = None
    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    protocol: ProtocolConfig
    logger: LoggerConfig
    results_root: Path
    force: bool = False
    device: str = "auto"
    lockstep: int | Literal["auto"] = "auto"

    @model_validator(mode="after")
    def _target_is_foreign(self) -> RunConfig:
        if self.target is not None and self.source in self.target:
            raise ValueError(
                f"target={self.source} is also the source: adaptation is measured on foreign domains; "
                "remove it from target"
            )
        return self


def _by_preset(uniform: Any, official: Any, *, _parent_: DictConfig) -> Any:
    """``${preset:UNIFORM,OFFICIAL}`` in a method's YAML: one of two values, chosen by its key ``preset``."""
    return official if _parent_.get("preset") == "official" else uniform


OmegaConf.register_new_resolver("preset", _by_preset, replace=True)


def validate(composed: Mapping[str, Any]) -> RunConfig:
    """Check a composed configuration.

    Args:
        composed: plain nested mappings, as from ``OmegaConf.to_container(..., resolve=True)``.

    Raises:
        UserError: with every fault found, each naming its key.
    """
    faults: list[str] = []
    try:
        config = RunConfig.model_validate(composed)
    except ValidationError as error:
        faults += [_sentence(fault, _fields) for fault in error.errors()]
    try:
        method_options(composed.get("method") or {})
    except UserError as error:
        faults += error.faults
    if faults:
        raise UserError(faults)
    return config


def validate_data(section: Mapping[str, Any]) -> DataConfig:
    """The data section alone, for commands that run no method.

    Raises:
        UserError: with every fault found.
    """
    try:
        return DataConfig.model_validate(section)
    except ValidationError as error:
        raise UserError(
            [_sentence(fault, lambda _: list(DataConfig.model_fields), "data") for fault in error.errors()]
        ) from None


def method_options(method: Mapping[str, Any]) -> MethodOptions:
    """The hyper-parameters of ``method`` (its YAML's content), typed and checked.

    Raises:
        UserError: no or an unknown name, unknown keys, wrong types or values out of range.
    """
    if "name" not in method:
        raise UserError(f"no method is chosen: add +method=NAME, {nearest('', METHODS.names())}")
    options = METHODS.get(method["name"]).Options
    if method.get("preset", PRESETS[0]) not in PRESETS:
        raise UserError(f"unknown method.preset={method['preset']}: {nearest(str(method['preset']), PRESETS)}")
    values = {key: value for key, value in method.items() if key not in ("name", "preset")}
    try:
        return TypeAdapter(options).validate_python(values)
    except ValidationError as error:
        raise UserError(
            [_sentence(fault, lambda path: _option_names(options, path), "method") for fault in error.errors()]
        ) from None


def _sentence(fault: Any, valid: Callable[[list[str]], list[str]], prefix: str = "") -> str:
    """One pydantic fault as a sentence that names the key."""
    location = [str(part) for part in fault["loc"] if not str(part).startswith("function-")]
    key = ".".join([prefix, *location] if prefix else location)
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key '{key}': {nearest(location[-1], valid(location[:-1]))}"
    if fault["type"] == "value_error":
        message = str(fault["ctx"]["error"])
        return f"{key}: {message}" if prefix else message
    if fault["type"] == "missing":
        return f"'{key}' is missing: add {key}=..."
    return f"{key}={fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _option_names(options: Any, path: list[str]) -> list[str]:
    """The options that are valid below ``path``."""
    for part in path:
        options = get_type_hints(options)[part]
    return [field.name for field in fields(options)]


def _fields(path: list[str]) -> list[str]:
    """The keys that are valid below ``path``."""
    model: Any = RunConfig
    for part in path:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
