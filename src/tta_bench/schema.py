"""The typed schema of a run: every key, its type and its range.

Hydra composes the configuration from ``conf/``, and :mod:`tta_bench.launch.validation` turns it into the frozen models
below, which know of no registry: what a name stands for is looked up there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tta_bench.errors import UserError, nearest_key
from tta_bench.runtime.files_section import FilesConfig, Names, as_mapping, as_tuple, null_is
from tta_bench.runtime.launch_section import LaunchConfig, RuntimeConfig
from tta_bench.runtime.precision import Precision
from tta_bench.runtime.protocol_section import PredictConfig, ProtocolConfig
from tta_bench.runtime.ranges import Range, Seed, check_device
from tta_bench.runtime.sections import DiagnosticsConfig, PreprocessingConfig, Section, distinct, keys_of
from tta_bench.runtime.training_section import TrainingConfig

UNADAPTED = "no_adapt"
"""The method that leaves a model as it is."""

SHADES: Mapping[str, tuple[int, ...]] = {"background": (255,), "rim": (128,), "cup": (0,)}
"""Grey codes of the masks of ``data=fundus``, unless ``data.shades`` says otherwise."""


_KINDS: Mapping[str, str] = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "string": "a name",
    "path": "a path",
    "tuple": "a list, for example [A,B] or [1,2]",
    **dict.fromkeys(("dict", "mapping", "model", "dataclass"), "keys with their values, {KEY: VALUE}"),
}
"""What a value should have been where it is of another type, by pydantic's name of the fault."""


def _shown(value: Any) -> str:
    """A refused value for a sentence; Python does not write out a number of thousands of digits."""
    try:
        text = "null" if value is None else repr(value)
    except ValueError:
        return "(a number of thousands of digits)"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _as_classes(value: Any) -> Any:
    return {"foreground": (1,)} if value is None else as_mapping(value)


def _as_shades(value: Any) -> Any:
    """The default spelled out is the default, so that it is no other data set."""
    shades = as_mapping(value)
    spelled_out = {name: list(codes) for name, codes in SHADES.items()}
    return None if shades in (spelled_out, SHADES) else shades


def _as_path(value: Any) -> Any:
    """Refuse an empty path, which would be the working directory, and replace ``~`` by the home folder."""
    if value == "":
        raise PydanticCustomError("empty_path", "name a folder or file, or leave the key out")
    return os.path.expanduser(value) if isinstance(value, str | Path) else value  # leaves an unknown ~NAME as it is


def _as_seeds(value: Any) -> Any:
    """As :func:`as_tuple`, the numbers of a text read."""
    values = as_tuple(value)
    return tuple(int(part) if part.isdecimal() else part for part in values) if isinstance(value, str) else values


def _as_lockstep(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value in LOCKSTEP):
        return value
    valid = f"{LOCKSTEP.low} to {LOCKSTEP.high}"
    raise ValueError(f"lockstep={value}: give the number of streams, {valid}, or auto")


LOCKSTEP = Range(1, 2**16)

Seeds = Annotated[tuple[Seed, ...], BeforeValidator(_as_seeds), distinct("seed")]
MaskValues = tuple[Annotated[int, Range(0, 255)], ...]
UserPath = Annotated[Path, BeforeValidator(_as_path)]


class DataConfig(FilesConfig):
    """Which images, read how (``conf/data``)."""

    name: str
    root: UserPath | None = None
    image_size: Annotated[int, Range(64, 2**14)] = Field(
        multiple_of=32, description="side of the square network input, pixels"
    )
    fit: Literal["stretch", "pad", "tile"] = Field(
        description="images become the square by resizing, with their aspect ratio kept, or are cut into such squares"
    )
    limit: Annotated[int, Range(1, 10**9)] | None = Field(
        default=None, description="keep the first N images of each domain"
    )
    classes: Annotated[dict[str, MaskValues], BeforeValidator(_as_classes), Field(min_length=1)]
    exclusive: bool = Field(description="each pixel belongs to one class or the background: softmax")
    shades: Annotated[dict[str, MaskValues] | None, BeforeValidator(_as_shades)] = Field(
        default=None, description="fundus: background, rim, cup -> their grey codes in the masks; null: SHADES"
    )
    max_pixels: Annotated[int, Range(1, 2**40)] = Field(
        exclude=True, description="refuse larger images; changes no number"
    )
    domains: Annotated[dict[str, str] | None, BeforeValidator(as_mapping)] = Field(
        default=None, description="fundus: domain name -> file prefix"
    )
    seed: Seed = Field(description="synthetic: seed of the generated images")

    @model_validator(mode="after")
    def _classes_are_clear(self) -> DataConfig:
        empty = [name for name, values in self.classes.items() if not values]
        if empty:
            raise ValueError(f"data.classes.{empty[0]} lists no mask value; example: {{foreground: [1]}}")
        listed = [value for values in self.classes.values() for value in set(values)]
        twice = next((value for value in listed if listed.count(value) > 1), None)
        if self.exclusive and twice is not None:
            names = " and ".join(name for name, values in self.classes.items() if twice in values)
            raise ValueError(
                f"data.exclusive=true, but {names} of data.classes share the mask value {twice}: list it in one of "
                "them, for example {rim: [1], cup: [2]}, or leave data.exclusive out"
            )
        return self

    @model_validator(mode="after")
    def _files_are_of_classes(self) -> DataConfig:
        self.check_classes(self.classes)
        return self

    @property
    def reading(self) -> dict[str, Any]:
        """All beside the files that decides what is decoded from them, as plain values; empty at its default."""
        keys = {"intensity", "axis", "colours", "class_masks", "annotators", "fusion"}
        dumped = self.model_dump(mode="json", include=keys)
        by_class = self.colours or self.class_masks or self.annotators
        return {**dumped, "classes": [[name, *values] for name, values in self.classes.items()]} if by_class else dumped

    @property
    def activation(self) -> Literal["sigmoid", "softmax"]:
        """What the network's logits stand for, see :mod:`tta_bench.ops.probabilities`."""
        return "softmax" if self.exclusive else "sigmoid"

    @model_validator(mode="after")
    def _shades_are_clear(self) -> DataConfig:
        if self.shades is None:
            return self
        example = "example: {background: [255], rim: [128], cup: [0]}"
        for name, codes in self.shades.items():
            if name not in SHADES:
                raise ValueError(f"unknown key 'data.shades.{name}': {nearest_key(f'data.shades.{name}', SHADES)}")
            if not codes:
                raise ValueError(f"data.shades.{name} lists no grey code; {example}")
        if "background" not in self.shades or len(self.shades) == 1:
            raise ValueError(f"data.shades names the codes of background and of rim, cup or both; {example}")
        listed = [code for codes in self.shades.values() for code in set(codes)]
        twice = next((code for code in listed if listed.count(code) > 1), None)
        if twice is not None:
            raise ValueError(f"data.shades gives code {twice} two meanings: list it once; {example}")
        return self

    @model_serializer(mode="wrap")
    def _without_younger_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The keys are younger than many results, whose identity is that of the default."""
        left_out = {"shades": self.shades is None, "exclusive": not self.exclusive, "fit": self.fit == "stretch"}
        left_out |= {key: getattr(self, key) is None for key in FilesConfig.model_fields}
        return {key: value for key, value in dump(self).items() if not left_out.get(key)}


class ModelConfig(Section):
    """The segmentation network (``conf/model``)."""

    name: str
    architecture: str | None = Field(default=None, description="of model=smp, as the library's class is called")
    encoder: str | None = None
    encoder_weights: str | None = None
    decoder_channels: tuple[Annotated[int, Range(1, 2**14)], ...] | None = None
    branches: tuple[str, ...] = ()
    channels: Annotated[Literal[1, 3] | None, null_is(3)] = Field(
        default=None, description="of its images; null: 3, and 1 shows it the luminance alone"
    )
    options: dict[str, Any] = Field(default={}, description="of a network of a plug-in, as that reads them")
    norm: Literal["catenorm"] | None = Field(default=None, description="of the encoder; null: as its library has it")
    norm_blocks: Annotated[int, Range(1, 5)] | None = Field(
        default=None, description="catenorm: how many of the encoder's resolutions, the finest first"
    )
    preprocessing: PreprocessingConfig | None = Field(
        default=None, description="of its images; null: that of the checkpoint, the paper's where one is trained"
    )

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # a mapping has none

    @model_validator(mode="after")
    def _mean_is_of_channels(self) -> ModelConfig:
        mean = self.preprocessing.mean if self.preprocessing else None
        if self.channels == 1 and mean is not None and len(mean) == 3:
            raise ValueError("model.channels=1 and model.preprocessing has three means: give one, and one deviation")
        return self

    @model_validator(mode="after")
    def _norm_has_blocks(self) -> ModelConfig:
        if self.norm is not None and self.norm_blocks is None:
            raise ValueError(f"model.norm={self.norm} replaces layers of model.norm_blocks resolutions: give 1 to 5")
        return self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """These keys are younger than many results, whose identity is that of none, and of the paper's."""
        content: dict[str, Any] = dump(self)
        for key in ("options", "architecture", "channels", "norm"):
            if not content.get(key):
                content.pop(key, None)
        if self.norm is None:
            content.pop("norm_blocks", None)
        if self.preprocessing in (None, PreprocessingConfig(range="min_max")):
            content.pop("preprocessing", None)
        return content


class SearchConfig(Section):
    """How the options of a method are searched on source images (``conf/shared/search.yaml``)."""

    trials: Annotated[int, Range(1, 10**6)] = Field(description="the budget of each method and source")
    seed: Seed = Field(description="of what is tried, of the shifts and of the method's draws")
    shifts: Annotated[dict[str, tuple[float, ...]], BeforeValidator(as_mapping)] = Field(
        description="shift -> its strengths; each makes a pseudo-target"
    )
    passes: Annotated[int, Range(1, 1000)] = Field(description="over the images of each pseudo-target")

    @model_serializer(mode="wrap")
    def _without_younger_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The key is younger than many searches, whose identity is that of one pass."""
        return {key: value for key, value in dump(self).items() if (key, value) != ("passes", 1)}


def _dice_first(metrics: tuple[str, ...]) -> tuple[str, ...]:
    """The metric that every cell has comes first, whether it is asked for or not."""
    return tuple(dict.fromkeys(("dice", *metrics)))


class RunConfig(Section):
    """One fully resolved run."""

    method: dict[str, Any]
    adapt: dict[str, Any] | None = Field(default=None, description="system that makes an adapted model beforehand")
    source: str
    route: Annotated[Names, distinct("route")] | None = Field(
        default=None, description="further sources: every image is adapted from the source model of the nearest centre"
    )
    stages: Annotated[Names, distinct("stages")] | None = Field(
        default=None, description="domains that a source model is trained on one after the other, source last; or all"
    )
    target: Annotated[Names, distinct("target")] | None = None
    seed: Seeds
    metrics: Annotated[Names, distinct("metrics"), AfterValidator(_dice_first)] = Field(
        description="taken from what is predicted, so no part of what a cell is; Dice is always first"
    )
    checkpoint: UserPath | None = None
    tune: bool = Field(description="search the method's options instead of adapting to targets")
    search: SearchConfig | None = Field(default=None, description="how; also which search method.preset=tuned is of")
    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    protocol: ProtocolConfig
    predict: PredictConfig
    diagnostics: DiagnosticsConfig
    launch: LaunchConfig
    runtime: RuntimeConfig
    logger: dict[str, dict[str, Any]] = Field(description="sinks that follow the run -> their options, checked by each")
    group: str | None = Field(default=None, description="under which dashboards show the run")
    results_root: UserPath
    force: bool
    device: Annotated[str, AfterValidator(check_device)]
    precision: Precision = Field(description="of the network's arithmetic while it is adapted")
    lockstep: Annotated[Annotated[int, LOCKSTEP] | Literal["auto"], BeforeValidator(_as_lockstep)]

    @property
    def called(self) -> str:
        """What its numbers are called: the method, behind the system of the adapt stage where there is one."""
        method = str(self.method["name"])
        before = self.adapt["name"] if self.adapt is not None else "routed" if self.route is not None else None
        return method if before is None else before if method == UNADAPTED else f"{before} + {method}"

    @property
    def sources(self) -> tuple[str, ...]:
        """All domains that a source model is trained on."""
        return self.source, *(self.route or ())

    def of_each_source(self) -> list[RunConfig]:
        """The same run from each of its sources alone; of stages the first, which the others begin with."""
        sources = self.stages[:1] if self.stages else self.sources
        return [self.model_copy(update={"source": name, "route": None}) for name in sources]

    @model_validator(mode="after")
    def _target_is_foreign(self) -> RunConfig:
        both = [name for name in self.sources if name in (self.target or ()) and not self.stages]
        if both:
            raise ValueError(
                f"target={both[0]} is also the source: adaptation is measured on foreign domains; remove it from target"
            )
        return self

    @model_validator(mode="after")
    def _super_resolution_sees_enough(self) -> RunConfig:
        # Its branch is shown half the side: 32 pixels leave one value per channel at the bottleneck, which batch
        # statistics cannot normalise, and half of 96 pixels is rebuilt as an image of 128.
        size = self.data.image_size
        if "super_resolution" in self.model.branches and (size < 128 or size % 64):
            raise ValueError(
                f"data.image_size={size} is too small or uneven for the branch super_resolution, which is shown half "
                "of each side: give a multiple of 64, at least 128, or leave it out of model.branches"
            )
        return self

    @model_validator(mode="after")
    def _empirical_gradient_is_of_one_update(self) -> RunConfig:
        if self.diagnostics.empirical_gradient and self.protocol.steps > 1:
            raise ValueError(
                f"diagnostics.empirical_gradient=true compares gradients at one state: set protocol.steps=1, "
                f"not {self.protocol.steps}"
            )
        return self


AnySection = TypeVar("AnySection", bound=Section)


def validate_section(model: type[AnySection], section: Mapping[str, Any], key: str) -> AnySection:
    """A section alone, as a model of its own.

    Raises:
        UserError: with every fault found.
    """
    try:
        return model.model_validate(section)
    except ValidationError as error:
        raise UserError([fault_sentence(fault, keys_of(model), key) for fault in error.errors()]) from None


def fault_sentence(fault: Any, valid: Callable[[list[str]], list[str]], prefix: str = "") -> str:
    """One pydantic fault as a sentence that names the key."""
    location = [part for part in fault["loc"] if not str(part).startswith("function-")]
    key = _dotted([prefix] * bool(prefix) + location)
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        parent = [str(part) for part in location[:-1]]
        return f"unknown key '{key}': {nearest_key(key, valid(parent))}"
    if fault["type"] == "value_error":
        message = str(fault["ctx"]["error"])
        if fault["input"] is None:  # which validators write as Python does
            message = message.replace(f"{key}=None", f"{key}=null")
        return f"{key}: {message}" if prefix == "method" else message
    if fault["type"] == "missing":
        return f"'{key}' is missing: add {key}=..."
    kind = _KINDS.get(fault["type"].removesuffix("_type"))
    remedy = f"give {kind}" if kind is not None else f"{fault['msg'][0].lower()}{fault['msg'][1:]}"
    return f"{key}={_shown(fault['input'])}: {remedy}"


def _dotted(location: Sequence[str | int]) -> str:
    """A path of keys as users write it; the place in a list only where a key of that item follows.

    >>> _dotted(["parts", 0, "images"]), _dotted(["data", "root", 1])
    ('parts[0].images', 'data.root')
    """
    last = max((place for place, part in enumerate(location) if isinstance(part, str)), default=-1)
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location[: last + 1]]
    return "".join(parts).removeprefix(".")
