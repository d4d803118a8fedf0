"""What must stand in a checkpoint of this project beside its weights."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from tta_bench.models.pretext import PRETEXT_TASKS
from tta_bench.models.segmentation import NETWORKS
from tta_bench.ops.geometry import Fit, ScoreAt
from tta_bench.ops.probabilities import Activation
from tta_bench.registry import Registry

Percent = Annotated[float, Field(ge=0, le=100 + 1e-6)]  # a whole overlap may be rounded to a little more
MaskValue = Annotated[int, Field(ge=0, le=65535)]


def _known(registry: Registry[Any]) -> Callable[[str], str]:
    """Refuse a name that a registry does not have."""

    def check(name: str) -> str:
        registry.get(name)
        return name

    return check


class _Part(BaseModel):
    """Types are taken as they are, never converted; unknown keys are left to newer versions."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())


class Architecture(_Part):
    """The fields of ``ModelConfig``, on any machine: nothing outside the file is asked."""

    name: Annotated[str, AfterValidator(_known(NETWORKS))]
    architecture: str | None = None
    encoder: str | None
    encoder_weights: str | None
    decoder_channels: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=5, max_length=5)] | None
    options: dict[str, Any] = {}
    channels: Literal[1, 3] | None = None
    norm: Literal["catenorm"] | None = None
    norm_blocks: Annotated[int, Field(ge=1, le=5)] | None = None
    branches: list[Annotated[str, AfterValidator(_known(PRETEXT_TASKS))]]


class Training(_Part):
    """What is shown of ``TrainingConfig``."""

    name: str
    epochs: Annotated[int, Field(ge=1)]


class Origin(_Part):
    """The file that a checkpoint was imported from."""

    file: str
    sha256: str


class Description(_Part):
    """A whole checkpoint."""

    tta_bench: str
    architecture: Architecture
    classes: Annotated[dict[str, list[MaskValue]], Field(min_length=1)]
    spottuned: Annotated[list[Annotated[list[str], Field(min_length=1)]], Field(min_length=1)] | None = None
    activation: Activation = "sigmoid"
    image_size: Annotated[int, Field(ge=1, le=65536)]
    fit: Fit = "stretch"
    score_at: ScoreAt = "network"
    domain: Annotated[str, Field(min_length=1)] | None
    fingerprint: str | None
    intensity: dict[str, Any] | None = None
    training: Training | None
    more_epochs: Annotated[int, Field(ge=1)] | None = None
    dice_in_domain: dict[str, Percent] | None
    origin: Origin | None = None
    state: dict[str, Any]

    @model_validator(mode="after")
    def _same_classes(self) -> Description:
        if self.dice_in_domain is not None and self.dice_in_domain.keys() != self.classes.keys():
            raise ValueError("its classes are others than those of dice_in_domain")
        return self


def description_faults(content: dict[Any, Any]) -> list[str]:
    """What is missing or wrong in the content of a checkpoint, as ends of sentences that begin with its name."""
    try:
        Description.model_validate(content)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    else:
        return []
    missing = [_key(fault["loc"]) for fault in faults if fault["type"] == "missing"]
    wrong = [
        f"has {_key(fault['loc'])}={reprlib.repr(fault['input'])} ({fault['msg'][0].lower()}{fault['msg'][1:]})"
        if fault["loc"]
        else str(fault["ctx"]["error"])
        for fault in faults
        if fault["type"] != "missing"
    ]
    return [f"lacks {', '.join(missing)}"] * bool(missing) + wrong


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))
