"""From the files of one image to what is kept of it: class numbers, the region around the disc, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tta_bench.data.recipes.pairing import Item
from tta_bench.data.recipes.reading import is_volume, read_mask_file, read_picture, read_slices
from tta_bench.data.recipes.recipe import Crop, Masks, Recipe, Volume
from tta_bench.errors import UserError

_ROUNDING = 0.005
"""Three of four annotators are 191 of 255 in 8 bits, which is a little less than 0.75."""


@dataclass(frozen=True)
class Made:
    """One image as it is kept.

    Attributes:
        name: within its domain.
        image: uint8 ``[height, width, 3]``.
        mask: uint8 ``[height, width]``, mask values.
        facts: what the manifest tells of it, of :data:`tta_bench.data.recipes.writing.FACTS`.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    facts: Mapping[str, str | int] = field(default_factory=dict)


def make(recipe: Recipe, classes: Mapping[str, Sequence[int]], root: Path, item: Item) -> list[Made]:
    """Read an item and cut out what is kept of it.

    Args:
        recipe: that found it.
        classes: of the recipe, as ``data.classes``.
        root: of the release.
        item: one of its images or volumes.

    Raises:
        UserError: naming the file that is damaged, does not match or has codes without a meaning.
    """
    image = root / item.image
    if is_volume(image):
        return _slices(recipe, root, item)
    picture = read_picture(image)
    whole = picture.shape[:2]
    picture = _half(picture, recipe.half)
    mask, outside = _mask(recipe, root, item, whole, picture.shape[:2])
    facts: dict[str, str | int] = {"outside": outside}
    if recipe.crop is not None:
        box = roi(mask, classes[recipe.crop.around], recipe.crop)
        if box is None:
            where = item.masks[0][0] if item.masks and item.masks[0] else item.image
            raise UserError(f"{root / where} has no pixel of {recipe.crop.around}, which the region is cut around")
        picture, mask = cut(picture, box), cut(mask, box)
        facts |= dict(zip(("left", "top", "side"), box, strict=True))
    return [Made(item.name, picture, mask, facts)]


def roi(mask: np.ndarray, values: Sequence[int], crop: Crop) -> tuple[int, int, int] | None:
    """The square around a class.

    Its centre is that of the class's bounding box. Where it would reach over the border of the image it is moved
    inside, so that no border is made up; where the image is smaller than the square, it lies in its middle.

    Args:
        mask: mask values, ``[height, width]``.
        values: of the class.
        crop: its side.

    Returns:
        Left, top and side in pixels; None if the class is nowhere.
    """
    rows, columns = np.nonzero(np.isin(mask, values))
    if not len(rows):
        return None
    ends = [(int(each.min()), int(each.max()) + 1) for each in (columns, rows)]
    side = crop.pixels or round((crop.factor or 1) * max(high - low for low, high in ends))
    starts = []
    for (low, high), size in zip(ends, mask.shape[::-1], strict=True):
        start = round((low + high - side) / 2)
        starts.append(min(max(start, 0), size - side) if side <= size else (size - side) // 2)
    return starts[0], starts[1], side


def cut(array: np.ndarray, box: tuple[int, int, int]) -> np.ndarray:
    """A square of an array ``[height, width, ...]``, 0 where it reaches over its border."""
    left, top, side = box
    result = np.zeros((side, side, *array.shape[2:]), array.dtype)
    y, x = max(top, 0), max(left, 0)
    piece = array[y : top + side, x : left + side]
    result[y - top : y - top + piece.shape[0], x - left : x - left + piece.shape[1]] = piece
    return result


def class_numbers(masks: Masks, array: np.ndarray, path: Path) -> np.ndarray:
    """The mask values of a file that holds all classes, by its codes.

    Raises:
        UserError: it has codes without a meaning.
    """
    if masks.codes is None:
        meaning = {value: value for value in range(256)}
    else:
        meaning = {code: value for value, codes in masks.codes.items() for code in codes}
    found = np.unique(array)
    if unknown := [value for value in found.tolist() if value not in meaning]:
        told = ", ".join(f"{value:g}" for value in unknown[:10]) + (", ..." if len(unknown) > 10 else "")
        known = "0 to 255" if masks.codes is None else ", ".join(map(str, sorted(meaning)[:10]))
        raise UserError(f"{path} has codes without a meaning: {told}; the recipe knows {known}: see its masks.codes")
    return np.array([meaning[value] for value in found.tolist()], np.uint8)[np.searchsorted(found, array)]


def _mask(
    recipe: Recipe, root: Path, item: Item, whole: tuple[int, int], size: tuple[int, int]
) -> tuple[np.ndarray, int]:
    """The mask values of a picture, and the number of pixels of a later layer outside the earlier ones."""
    masks = recipe.chosen
    if masks.layers is None:
        path = root / item.masks[0][0]
        array = _fitted(recipe, path, read_mask_file(path, whole, None, masks.variable), whole, size)
        return class_numbers(masks, array, path), 0
    result = np.zeros(size, np.uint8)
    outside = 0
    for layer, paths in zip(masks.layers, item.masks, strict=True):
        shares = []
        for name in paths:
            array = read_mask_file(root / name, whole, layer.label, masks.variable)
            top = 1 if array.max() <= 1 else 255
            shares.append(_fitted(recipe, root / name, array, whole, size) / top)
        if not shares:
            continue
        drawn = np.mean(shares, axis=0) >= masks.threshold - _ROUNDING
        if not drawn.any() and not layer.optional:
            raise UserError(f"{root / paths[0]} has no pixel of {layer.label or f'value {layer.value}'}: copy it again")
        outside += int((drawn & (result == 0)).sum()) if result.any() else 0
        result[drawn] = layer.value
    return result, outside


def _fitted(recipe: Recipe, path: Path, array: np.ndarray, whole: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """A mask of its image's size: the half of a stereo pair, or scaled where the recipe allows it."""
    if array.shape == whole:
        array = _half(array, recipe.half)
    if array.shape == size:
        return array
    ratio = array.shape[1] * size[0] / (array.shape[0] * size[1])
    if recipe.chosen.scaled and abs(ratio - 1) < 0.01:
        return np.asarray(Image.fromarray(array).resize(size[::-1], Image.Resampling.NEAREST))
    told = " and ".join(f"{each[1]}x{each[0]}" for each in (array.shape, size))
    raise UserError(f"{path} and its image have {told} pixels (width x height): is it the right mask?")


def _half(array: np.ndarray, half: str | None) -> np.ndarray:
    if half is None:
        return array
    middle = array.shape[1] // 2
    return array[:, :middle] if half == "left" else array[:, -middle:]


def _slices(recipe: Recipe, root: Path, item: Item) -> list[Made]:
    """The slices of a volume, named by it."""
    mask = root / item.masks[0][0]
    if not is_volume(mask) or recipe.chosen.layers is not None:
        raise UserError(f"{mask} is no volume, its image is: a recipe of volumes has masks.files that are NIfTI")
    found = read_slices(root / item.image, mask, recipe.volume or Volume())
    if not found:
        raise UserError(f"{mask} has no labelled slice: remove it with its image, or set volume.slices=all")
    several = len({moment for moment, *_ in found}) > 1
    made = []
    for moment, number, picture, labels, spacing in found:
        case = f"{item.name}_t{moment:02d}" if several else item.name
        facts: dict[str, str | int] = {"case": case, "slice": number, "spacing": spacing}
        made.append(Made(f"{case}_{number:03d}", picture, class_numbers(recipe.chosen, labels, mask), facts))
    return made
