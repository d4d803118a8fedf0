"""Parts of the configuration: what all of them share, and the one that checkpoints store, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tta_bench.runtime.ranges import LARGE, Positive, Range


def ascending(key: str) -> AfterValidator:
    """Refuse a range whose ends are reversed."""

    def check(ends: tuple[float, float]) -> tuple[float, float]:
        if ends[0] > ends[1]:
            raise ValueError(f"{key}={list(ends)} is reversed: give the lower end first")
        return ends

    return AfterValidator(check)


def distinct(key: str) -> AfterValidator:
    """Refuse an empty list, and one that names something twice."""

    def check(values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not values:
            raise ValueError(f"{key} is empty: name at least one, or leave {key} out")
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise ValueError(f"{key} lists {twice} more than once: name it once")
        return values

    return AfterValidator(check)


Percentile = Annotated[float, Range(0, 100)]
Intensity = Annotated[float, Range(-LARGE, LARGE)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values do not change.

    Keys without which there is something to say may be left out, and are None or empty then; values stand in ``conf/``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), coerce_numbers_to_str=True)


def kind_at(section: type[BaseModel], path: Iterable[str]) -> Any:
    """The type that a path of keys leads to, through mappings and lists; None where a key on the way is unknown.

    >>> kind_at(PreprocessingConfig, ["range"])
    typing.Literal['min_max', 'unit', 'percentile']
    """
    kind: Any = section
    for part in path:
        if is_section(kind):
            kind = kind.model_fields[part].annotation if part in kind.model_fields else None
        elif get_origin(kind) in (dict, Mapping):
            kind = get_args(kind)[1]
        elif get_origin(kind) in (list, tuple):
            kind = get_args(kind)[0]
        else:
            return None
        while get_origin(kind) in (Annotated, Union, UnionType):  # what may be null is what else it may be
            kind = next(each for each in get_args(kind) if each is not type(None))
    return kind


def is_section(kind: Any) -> TypeGuard[type[BaseModel]]:
    """Whether a type, as of :func:`kind_at`, has keys that are known."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def keys_of(section: type[BaseModel]) -> Callable[[Iterable[str]], list[str]]:
    """From a path below a section to the keys that are valid there; none below a mapping, or where there is nothing."""

    def valid(path: Iterable[str]) -> list[str]:
        kind = kind_at(section, path)
        return list(kind.model_fields) if is_section(kind) else []

    return valid


class PreprocessingConfig(Section):
    """What a source model expects of its images (``conf/preprocessing``)."""

    range: Literal["min_max", "unit", "percentile"] = Field(
        description="how grey levels become [0, 1]: of each image, divided by 255, or between two"
    )
    percentiles: Annotated[tuple[Percentile, Percentile], ascending("model.preprocessing.percentiles")] | None = Field(
        default=None, description="percentile: of each image that become 0 and 1"
    )
    mean: tuple[Intensity, ...] | None = Field(default=None, description="of each channel, or one of all, in [0, 1]")
    std: tuple[Positive, ...] | None = Field(default=None, description="likewise; the network sees (x - mean) / std")

    @model_validator(mode="after")
    def _belongs_together(self) -> PreprocessingConfig:
        if (self.range == "percentile") != (self.percentiles is not None):
            needs = "needs model.preprocessing.percentiles, [1, 99] for instance"
            remedy = needs if self.percentiles is None else "has no model.preprocessing.percentiles: leave them out"
            raise ValueError(f"model.preprocessing.range={self.range} {remedy}")
        if self.percentiles is not None and self.percentiles[0] == self.percentiles[1]:
            raise ValueError("model.preprocessing.percentiles are equal: give the lower and the higher one")
        if (self.mean is None) != (self.std is None):
            raise ValueError("model.preprocessing.mean and model.preprocessing.std belong together: give both, or none")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in (1, 3):
                raise ValueError(f"model.preprocessing.{key} has {len(values)} values: give three, or one for all")
        return self

    @model_validator(mode="after")
    def _without_identity(self) -> PreprocessingConfig:
        """Mean 0 and standard deviation 1 change nothing, and are none."""
        if set(self.mean or ()) == {0.0} and set(self.std or ()) == {1.0}:
            return PreprocessingConfig(range=self.range, percentiles=self.percentiles)
        return self


class DiagnosticsConfig(Section):
    """What is looked at beside the adaptation, without any effect on it."""

    empirical_gradient: bool
    source_dice: Annotated[float, Range(0, 100)] | None = Field(
        default=None, exclude=True, description="warn of a source model whose in-domain Dice in percent is below it"
    )
    source_gap: Annotated[float, Range(0, 100)] | None = Field(
        default=None,
        exclude=True,
        description="warn of one that gains more points of Dice at home by the statistics of each image",
    )
