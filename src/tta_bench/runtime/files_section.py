"""How the files of images and masks are named and read: a part of the data section of the configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from tta_bench.errors import nearest_key
from tta_bench.runtime.ranges import LARGE, Range
from tta_bench.runtime.sections import Percentile, Section


def as_tuple(value: Any) -> Any:
    """Accept ``A``, ``'A,C'`` and ``[A, C]`` for a list of names or numbers."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, int | float):
        return (value,)
    return value


def as_mapping(value: Any) -> Any:
    """Accept a mapping as JSON, which is how the command line hands over one that replaces the default."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _as_intensity(value: Any) -> Any:
    """Accept ``minmax`` beside ``{window: […]}`` and ``{percentile: […]}``."""
    return {"minmax": True} if value == "minmax" else as_mapping(value)


def _text_keys(value: Any) -> Any:
    """Numbers among the keys of a mapping as text."""
    value = as_mapping(value)
    return {str(key): each for key, each in value.items()} if isinstance(value, Mapping) else value


def null_is(default: Any) -> BeforeValidator:
    """The default spelled out is the default, so that it is no other data set."""
    return BeforeValidator(lambda value: None if value == default and not isinstance(value, bool) else value)


Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
Byte = Annotated[int, Range(0, 255)]
Level = Annotated[float, Range(-LARGE, LARGE)]


class IntensityConfig(Section):
    """Which pixel values become black and white: one of three rules."""

    minmax: bool | None = Field(default=None, description="the lowest and the highest of each file")
    window: tuple[Level, Level] | None = Field(default=None, description="these two")
    percentile: tuple[Percentile, Percentile] | None = Field(default=None, description="of each file")

    @model_validator(mode="after")
    def _is_one_rule(self) -> IntensityConfig:
        valid = "give minmax, {window: [LOW, HIGH]} or {percentile: [1, 99]}"
        if sum(map(bool, (self.minmax, self.window, self.percentile))) != 1:
            raise ValueError(f"data.intensity is one rule: {valid}")
        ends = self.window or self.percentile
        if ends is not None and ends[0] >= ends[1]:
            raise ValueError(f"data.intensity has the ends {list(ends)}, of which the first is not the lower: {valid}")
        return self


class FilesConfig(Section):
    """Keys that are younger than many results, whose identity is that of none: all are null at their default."""

    intensity: Annotated[IntensityConfig | None, BeforeValidator(_as_intensity)] = Field(
        default=None, description="null: 8 and 16 bits by the range of their type, others by their window or ends"
    )
    axis: Annotated[Annotated[int, Range(0, 2)] | None, null_is(2)] = Field(
        default=None, description="of volumes, that slices are counted along; null: 2, of x, y and z"
    )
    image_dir: Annotated[str | None, null_is("image")] = Field(
        default=None, description="folder: where a domain has its images; null: image"
    )
    mask_dir: Annotated[str | None, null_is("mask")] = Field(
        default=None, description="folder: where a domain has its masks; null: mask"
    )
    mask_prefix: Annotated[str | None, null_is("")] = Field(
        default=None, description="folder: what stands before the image's name in that of its mask"
    )
    mask_suffix: Annotated[str | None, null_is("")] = Field(default=None, description="folder: what stands behind it")
    colours: Annotated[dict[str, tuple[Byte, Byte, Byte]] | None, BeforeValidator(_text_keys)] = Field(
        default=None, description="folder: class or mask value -> red, green, blue"
    )
    class_masks: Annotated[dict[str, str] | None, BeforeValidator(as_mapping)] = Field(
        default=None, description="folder: class -> FOLDER/ or suffix of its own masks"
    )
    annotators: Annotated[Names | None, Field(min_length=2)] = Field(
        default=None, description="folder: FOLDER/ or suffix of each annotator's masks"
    )
    fusion: Annotated[Literal["majority", "intersection", "staple"] | None, null_is("majority")] = Field(
        default=None, description="of annotators; null: majority"
    )

    def check_classes(self, classes: Mapping[str, Any]) -> None:
        """Refuse masks that come from two sources, or whose parts are not those of the classes.

        Raises:
            ValueError: naming the key.
        """
        given = [key for key in ("colours", "class_masks", "annotators") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"data.{given[0]} and data.{given[1]} are two ways to store masks: give one of them")
        if self.fusion is not None and not self.annotators:
            raise ValueError(f"data.fusion={self.fusion} is for data.annotators=[…]: name them, or leave it out")
        for key in ("colours", "class_masks"):
            for name in getattr(self, key) or {}:
                if name not in classes and not (key == "colours" and name.isdecimal() and int(name) < 256):
                    raise ValueError(f"unknown key 'data.{key}.{name}': {nearest_key(f'data.{key}.{name}', classes)}")
        missing = [name for name in classes if self.class_masks and name not in self.class_masks]
        if missing:
            raise ValueError(f"data.class_masks lacks the class {missing[0]}: give its FOLDER/ or suffix")
        parts = [*(self.class_masks or {}).values(), *(self.annotators or ())]
        twice = next((part for part in parts if not part or parts.count(part) > 1), None)
        if twice is not None:
            key = "class_masks" if self.class_masks else "annotators"
            raise ValueError(
                f"data.{key} lists '{twice}' more than once, or names nothing: give each its FOLDER/ or suffix"
            )
        shown = list((self.colours or {}).values())
        both = next((colour for colour in shown if shown.count(colour) > 1), None)
        if both is not None:
            raise ValueError(f"data.colours gives the colour {list(both)} two meanings: list it once")
