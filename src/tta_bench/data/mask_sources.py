"""Where the mask of an image comes from: a file of colours, one file of each class, or one of each annotator."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tta_bench.data.classes import value_of, values_of
from tta_bench.data.decoders.base import DECODERS, PICTURES, decoder_of, library
from tta_bench.data.masks import read_colours
from tta_bench.errors import UserError

Read = Callable[[Path], np.ndarray]
"""From a file to its mask values, uint8 ``[slices, height, width]``."""


class MaskSource(Protocol):
    """What a mask is made of."""

    @property
    def paths(self) -> Sequence[Path]:
        """The files, of which some may not be there."""

    def read(self, read: Read, max_pixels: int) -> np.ndarray:
        """The mask: uint8 ``[slices, height, width]``.

        Args:
            read: how a file of numbers is read.
            max_pixels: refuse larger files.

        Raises:
            UserError: every fault of the files.
        """


@dataclass(frozen=True)
class ColourMask:
    """A picture that shows each class in a colour; black that is not listed is the background.

    Attributes:
        path: the picture.
        colours: name of a class, or a mask value -> red, green and blue.
        classes: name -> mask values.
    """

    path: Path
    colours: Mapping[str, tuple[int, int, int]]
    classes: Mapping[str, tuple[int, ...]]

    @property
    def paths(self) -> Sequence[Path]:
        """See :class:`MaskSource`."""
        return (self.path,)

    def read(self, read: Read, max_pixels: int) -> np.ndarray:
        """See :class:`MaskSource`; a colour that is not listed is refused."""
        if not isinstance(decoder_of(self.path), DECODERS.get(PICTURES)):
            raise UserError(f"{self.path} is no picture, so it has no colours: leave data.colours out")
        shown = read_colours(self.path, max_pixels).astype(np.uint32)
        codes = (shown[..., 0] << 16) | (shown[..., 1] << 8) | shown[..., 2]
        table = {0: 0} | {_code(colour): value_of(name, self.classes) or 0 for name, colour in self.colours.items()}
        found, places, counts = np.unique(codes, return_inverse=True, return_counts=True)
        odd = [(int(code), int(count)) for code, count in zip(found, counts, strict=True) if int(code) not in table]
        if odd:
            listed = ", ".join(f"{_rgb(code)} ({count} pixels)" for code, count in sorted(odd, key=_by_count)[:5])
            raise UserError(
                f"{self.path} shows {len(odd)} colours that data.colours does not list, {listed}: list them, 0 for "
                "the background, or mend the mask (smoothing and lossy compression make such colours)"
            )
        values = np.array([table[int(code)] for code in found], np.uint8)
        return values[places].reshape(codes.shape)[None]


@dataclass(frozen=True)
class ClassMasks:
    """A file of each class, in which every value but 0 is the class; a class without a file is nowhere.

    Attributes:
        files: name of a class -> its file, or where it would be.
        classes: name -> mask values.
    """

    files: Mapping[str, Path]
    classes: Mapping[str, tuple[int, ...]]

    @property
    def paths(self) -> Sequence[Path]:
        """See :class:`MaskSource`."""
        return tuple(self.files.values())

    def read(self, read: Read, max_pixels: int) -> np.ndarray:
        """See :class:`MaskSource`; more than two values, and classes that no value tells together, are refused."""
        masks: dict[str, np.ndarray] = {}
        for name, path in self.files.items():
            if not os.path.lexists(path):
                continue
            mask = read(path)
            if len(values := np.unique(mask)) > 2:
                raise UserError(
                    f"{path} has {len(values)} values and is the mask of {name} alone: save 0 and one other value, "
                    "without smoothing, or leave data.class_masks out"
                )
            masks[name] = mask > 0
        shape = _one_shape({self.files[name]: mask for name, mask in masks.items()})
        empty = np.zeros(shape, bool)
        members = np.stack([masks.get(name, empty) for name in self.classes])
        return values_of(members, self.classes, str(next(self.files[name] for name in masks)))


@dataclass(frozen=True)
class AnnotatorMasks:
    """A file of each annotator, made one.

    Attributes:
        files: of all annotators.
        fusion: ``majority``: more than half of them; ``intersection``: all of them; ``staple``: weighted by how well
            each agrees with the others (STAPLE, Warfield et al. 2004).
        classes: name -> mask values.
    """

    files: tuple[Path, ...]
    fusion: str
    classes: Mapping[str, tuple[int, ...]]

    @property
    def paths(self) -> Sequence[Path]:
        """See :class:`MaskSource`."""
        return self.files

    def read(self, read: Read, max_pixels: int) -> np.ndarray:
        """See :class:`MaskSource`; annotators of different sizes are refused."""
        masks = {path: read(path) for path in self.files}
        _one_shape(masks)
        stacked = np.stack(list(masks.values()))
        known = {0}.union(*self.classes.values())
        if not known.issuperset(np.unique(stacked).tolist()):
            # As for a single mask, values without a meaning are refused once the whole domain is read.
            return stacked.max(0)
        of_class = [np.isin(stacked, values) for values in self.classes.values()]
        if self.fusion == "staple":
            members = np.stack([self._staple(each) for each in of_class])
        else:
            votes = np.stack([each.sum(0) for each in of_class])
            members = votes == len(stacked) if self.fusion == "intersection" else 2 * votes > len(stacked)
        return values_of(members, self.classes, f"{self.files[0]} and those of the other annotators")

    def _staple(self, votes: np.ndarray) -> np.ndarray:
        """Where a class is more probable than not, by STAPLE: ``[annotators, ...]`` to ``[...]``, both bool.

        Each class on its own, as nested classes overlap: who says cup and who says rim agree that it is disc.
        """
        if (votes == votes[0]).all():
            return votes[0]  # of which it can tell nothing
        sitk = library(self.files[0], "SimpleITK", "medical")
        fused = sitk.STAPLE([sitk.GetImageFromArray(each.astype(np.uint8)) for each in votes], 1.0)
        return sitk.GetArrayFromImage(fused) > 0.5


def _one_shape(masks: Mapping[Path, np.ndarray]) -> tuple[int, ...]:
    """The shape that all masks have.

    Raises:
        UserError: they have several.
    """
    (first, mask), *others = masks.items()
    for path, other in others:
        if other.shape != mask.shape:
            sizes = [f"{'x'.join(map(str, each.shape[:0:-1]))}" for each in (mask, other)]
            raise UserError(
                f"{first} has {sizes[0]} pixels (width x height) and {path} has {sizes[1]}: give the masks of one "
                "image the same size"
            )
    return mask.shape


def _code(colour: tuple[int, int, int]) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def _rgb(code: int) -> list[int]:
    return [code >> 16, code >> 8 & 255, code & 255]


def _by_count(item: tuple[int, int]) -> int:
    return -item[1]
