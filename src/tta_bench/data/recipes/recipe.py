"""What a recipe says: one YAML file per release, those that are shipped, of plug-ins, and a user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, model_validator

from tta_bench.data.recipes.patterns import fields_of
from tta_bench.errors import UserError, nearest
from tta_bench.registry import entry_points
from tta_bench.runtime.paths import package_folder
from tta_bench.runtime.ranges import Range
from tta_bench.runtime.sections import Section, ascending
from tta_bench.runtime.yaml_files import read_yaml
from tta_bench.schema import validate_section

GROUP = "tta_bench.recipes"
"""Entry points that name a package, in whose folder ``recipes`` more YAML files lie."""

_SHIPPED = Path(__file__).parent / "shipped"
_SPAN = re.compile(r"(-?\d+)\.\.(-?\d+)")


def _as_texts(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _as_codes(value: Any) -> Any:
    """Accept ``255``, ``1..255`` and lists of both."""
    codes: list[Any] = []
    for each in value if isinstance(value, list | tuple) else [value]:
        span = _SPAN.fullmatch(each) if isinstance(each, str) else None
        codes += range(int(span[1]), int(span[2]) + 1) if span else [each]
    return tuple(codes)


Patterns = Annotated[tuple[str, ...], BeforeValidator(_as_texts), Field(min_length=1)]
MaskValue = Annotated[int, Range(0, 255)]
Codes = Annotated[tuple[Annotated[int, Range(-(2**31), 2**31)], ...], BeforeValidator(_as_codes)]


class Layer(Section):
    """One class of a mask that has a file, or several files of annotators who are averaged, of its own."""

    value: Annotated[int, Range(1, 255)] = Field(
        description="of its pixels; later layers are painted over earlier ones"
    )
    files: Patterns = Field(description="the first pattern that matches counts, and all its files are averaged")
    label: str | None = Field(default=None, description="of its polygons, where the file holds several classes")
    count: Annotated[int, Range(1, 100)] | None = Field(default=None, description="of annotators that there have to be")
    optional: bool = Field(default=False, description="an image may have no file or no polygon of it: no pixel, then")


class Masks(Section):
    """Where the masks are and what their values mean: one file with all classes, or a layer for each class."""

    files: Patterns | None = Field(default=None, description="one file with the codes of all classes")
    codes: dict[MaskValue, Codes] | None = Field(
        default=None, description="mask value -> codes of the file; null: they are the mask values"
    )
    variable: str | None = Field(default=None, description="of a .mat file; null: its only one of two dimensions")
    layers: tuple[Layer, ...] | None = Field(default=None, description="instead of files")
    threshold: Annotated[float, Range(0.01, 1)] = Field(
        default=0.5, description="of layers: share of the annotators, or of the brightest value, that makes a pixel"
    )
    scaled: bool = Field(default=False, description="a mask of another size and the same shape is scaled to its image")

    @model_validator(mode="after")
    def _one_source(self) -> Masks:
        if (self.files is None) == (not self.layers):
            raise ValueError(
                "masks need either files: PATTERN, one file with all classes, or layers: a list of classes"
            )
        codes = [code for codes in (self.codes or {}).values() for code in codes]
        if len(set(codes)) < len(codes):
            raise ValueError("masks.codes lists a code twice: each has one meaning")
        return self

    @property
    def patterns(self) -> tuple[tuple[str, ...], ...]:
        """Those of the file, or of each layer."""
        return tuple(layer.files for layer in self.layers) if self.layers else (self.files or (),)


class Part(Section):
    """Images of one domain, or of several that a field tells apart; parts come one after another in the domain."""

    domain: str = Field(description="its name; may hold {field}")
    images: Patterns
    name: str = Field(default="{name}", description="of an image, or of a volume, within its domain")
    split: Literal["train", "test"] | None = Field(default=None, description="list of the authors' layout")


class Crop(Section):
    """A square region around a class."""

    around: str = Field(description="class in whose middle it lies")
    pixels: Annotated[int, Range(16, 2**14)] | None = Field(default=None, description="its side")
    factor: Annotated[float, Range(1, 100)] | None = Field(
        default=None, description="its side in diameters of the class"
    )

    @model_validator(mode="after")
    def _one_side(self) -> Crop:
        if (self.pixels is None) == (self.factor is None):
            raise ValueError("crop needs either pixels or factor: crop.pixels=null crop.factor=2.5, for instance")
        return self


class Volume(Section):
    """How a volume becomes slices."""

    axis: Annotated[int, Range(0, 2)] = Field(default=2, description="that is cut across, after turning it to RAS")
    channel: Annotated[int, Range(0, 2**10)] = Field(
        default=0, description="of an image of several, such as T2 and ADC"
    )
    percentiles: Annotated[tuple[float, float], ascending("volume.percentiles")] = Field(
        default=(0.5, 99.5), description="of the volume that become black and white"
    )
    window: Annotated[tuple[float, float], ascending("volume.window")] | None = Field(
        default=None, description="values that become black and white, instead: Hounsfield units of a CT"
    )
    slices: Literal["labelled", "all"] = Field(default="labelled", description="those whose mask holds a class, or all")


class Table(Section):
    """A CSV file of the release that gives images one more field."""

    file: Patterns
    key: str = Field(description="its column with the values of `field`")
    field: str = Field(description="of the images")
    column: str = Field(description="its column with the values of the new field")


class Recipe(Section):
    """One release."""

    title: str
    get: str = Field(description="where it is to be had")
    licence: str
    coding: str = Field(description="of the masks, in words")
    pitfalls: tuple[str, ...] = ()
    classes: dict[str, tuple[MaskValue, ...]] | None = Field(default=None, description="as data.classes")
    labels: str | None = Field(default=None, description="pattern of a dataset.json that names the classes, instead")
    fundus: bool = Field(default=False, description="write the lists and grey masks of data=fundus, too")
    parts: tuple[Part, ...] = Field(min_length=1)
    masks: Masks
    annotators: dict[str, Masks] = Field(default={}, description="others that may be chosen instead of masks")
    annotator: str | None = None
    tables: dict[str, Table] = Field(default={}, description="new field -> where its values stand")
    half: Literal["left", "right"] | None = Field(default=None, description="of a stereo pair side by side")
    crop: Crop | None = None
    volume: Volume | None = None
    expected: dict[str, int] = Field(default={}, description="domain -> number of images, or of volumes")

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if (self.classes is None) == (self.labels is None):
            raise ValueError("a recipe needs classes: {NAME: [1]}, or labels: the pattern of a dataset.json")
        if self.fundus and self.classes != {"disc": (1, 2), "cup": (2,)}:
            raise ValueError("fundus: true goes with classes: {disc: [1, 2], cup: [2]}")
        if self.crop and self.crop.around not in (self.classes or {}):
            raise ValueError(f"crop.around={self.crop.around}: {nearest(self.crop.around, self.classes or {})}")
        if self.annotator is not None and self.annotator not in self.annotators:
            raise ValueError(f"annotator={self.annotator}: {nearest(self.annotator, self.annotators)}")
        for part in self.parts:
            for pattern in part.images:
                known = fields_of(pattern) | self.tables.keys()
                used = [part.domain, part.name, *(each for masks in self.chosen.patterns for each in masks)]
                if unknown := sorted({field for text in used for field in fields_of(text)} - known):
                    raise ValueError(f"parts.images={pattern} has no {{{unknown[0]}}}, which domain, name or masks use")
        return self

    @property
    def chosen(self) -> Masks:
        """The masks of the annotator that is asked for."""
        return self.masks if self.annotator is None else self.annotators[self.annotator]


def recipe_names() -> list[str]:
    """The recipes that are shipped or of installed plug-ins."""
    return sorted(_paths())


def load_recipe(name: str, changes: Sequence[str] = ()) -> Recipe:
    """A recipe by its name or by the path of its file.

    Args:
        name: one of :func:`recipe_names`, or a path that ends in ``.yaml``.
        changes: ``KEY=VALUE`` with dotted keys, such as ``crop.pixels=600``.

    Raises:
        UserError: there is none, it cannot be read, or with every fault of its keys.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else _paths().get(name)
    if path is None:
        raise UserError(
            f"unknown recipe '{name}': {nearest(name, recipe_names())} ('tta-bench list recipes' shows them "
            "all; a file of your own ends in .yaml)"
        )
    _, content = read_yaml(path, "give a recipe")
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no mapping: write a recipe as docs/prepare_data.md shows")
    for change in changes:
        _set(content, change)
    try:
        return validate_section(Recipe, content, "")
    except UserError as error:
        raise UserError([f"recipe {name}: {fault}" for fault in error.faults]) from None


def _set(content: dict[str, Any], change: str) -> None:
    """Change one key in place; it may be new, as the check of the whole tells."""
    key, equals, value = change.partition("=")
    if not (key and equals):
        raise UserError(f"'{change}' is no KEY=VALUE of the recipe: write crop.pixels=600, for instance")
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(content.get(parent), dict | None):
            raise UserError(f"{key}: {parent} holds no keys: change it in a copy of the recipe's file")
        if content.get(parent) is None:
            content[parent] = {}
        content = content[parent]
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        content[last] = value


@cache
def _paths() -> Mapping[str, Path]:
    folders = [_SHIPPED]
    for plugin in entry_points(group=GROUP):
        try:
            folders.append(package_folder(plugin.module) / "recipes")
        except ImportError:
            continue
    return {path.stem: path for folder in reversed(folders) for path in folder.glob("*.yaml")}
