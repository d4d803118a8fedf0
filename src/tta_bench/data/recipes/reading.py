"""The files of releases as arrays: pictures, volumes, and masks that are drawn as contours or polygons.

A mask file is read by its ending; what is in no list here is a picture. A package of one's own adds an ending with
``@register_mask_file(".xyz")`` and the entry-point group ``tta_bench.mask_files``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tta_bench.data.images import MAX_PIXELS, decode, read_image
from tta_bench.data.recipes.recipe import Volume
from tta_bench.errors import UserError
from tta_bench.registry import Registry

VOLUMES = (".nii", ".nii.gz")
"""Endings of files of several slices."""

MaskReader = Callable[[Path, tuple[int, int], str | None, str | None], np.ndarray]

MASK_FILES: Registry[MaskReader] = Registry("mask file", __name__)

register_mask_file = MASK_FILES.register
"""Decorator of a function ``(path, (height, width), label, variable) -> [height, width]``: reads files by ending."""


def is_volume(path: Path) -> bool:
    """Whether a file is one of several slices."""
    return path.name.lower().endswith(VOLUMES)


def read_picture(path: Path) -> np.ndarray:
    """An image: uint8 ``[height, width, 3]``.

    Raises:
        UserError: as :func:`tta_bench.data.images.read_image`.
    """
    return read_image(path, MAX_PIXELS)


def read_mask_file(path: Path, size: tuple[int, int], label: str | None, variable: str | None) -> np.ndarray:
    """A mask as its file has it.

    Args:
        path: a picture (also a JPEG, whose codes a recipe makes exact by a threshold or by ranges), a MATLAB file, a
            text file of the points of a contour, or a JSON file of labelled polygons.
        size: (height, width) of the image, in which contours and polygons are filled with 1.
        label: of the polygons.
        variable: of the MATLAB file.

    Returns:
        ``[height, width]`` of numbers.

    Raises:
        UserError: it is damaged, or is no such file.
    """
    ending = path.suffix.lower()
    if ending in MASK_FILES.names():
        return MASK_FILES.get(ending)(path, size, label, variable)
    picture = decode(path, MAX_PIXELS)
    if picture.mode == "P":
        colours = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        if (colours != colours[:, :1]).any():
            return np.asarray(picture)
    if picture.mode == "1":
        picture = picture.convert("L")
    array = np.asarray(picture.convert("RGB") if picture.mode in ("P", "RGBA", "YCbCr", "CMYK") else picture)
    if array.ndim == 2:
        return array
    spread = array.max(axis=-1).astype(int) - array.min(axis=-1)
    if spread.max() > 32:  # a JPEG tints its greys a little
        raise UserError(f"{path} is a mask in colours, the recipe expects greys: is it an overlay?")
    return array[..., 0]


@register_mask_file(".txt")
def _contour(path: Path, size: tuple[int, int], label: str | None, variable: str | None) -> np.ndarray:
    """One point ``x y`` per line."""
    try:
        points = np.loadtxt(path, delimiter="," if "," in path.read_text() else None, ndmin=2)
        if points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
            raise ValueError(f"{points.shape[0]} points of {points.shape[1]} numbers")
    except (ValueError, OSError) as error:
        raise UserError(f"{path} holds no contour, a line 'x y' for each point ({error}): copy it again") from None
    return _filled([points], size)


@register_mask_file(".json")
def _polygons(path: Path, size: tuple[int, int], label: str | None, variable: str | None) -> np.ndarray:
    """Shapes as the program labelme writes them."""
    try:
        shapes = json.loads(path.read_text(encoding="utf-8"))["shapes"]
        points = [np.asarray(shape["points"], float).reshape(-1, 2) for shape in shapes if shape["label"] == label]
        if any(len(polygon) < 3 for polygon in points):
            raise ValueError(f"a shape '{label}' of fewer than 3 points")
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise UserError(f"{path} holds no labelled polygons ({type(error).__name__}: {error}): copy it again") from None
    return _filled(points, size)


@register_mask_file(".mat")
def _matlab(path: Path, size: tuple[int, int], label: str | None, variable: str | None) -> np.ndarray:
    """A variable of two dimensions."""
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # SciPy raises errors of many types on damaged files
        raise UserError(f"{path} cannot be read as a MATLAB file before version 7.3 ({error}): copy it again") from None
    arrays = {name: value for name, value in content.items() if isinstance(value, np.ndarray) and value.ndim == 2}
    if variable is None and len(arrays) == 1:
        return next(iter(arrays.values()))
    if variable not in arrays:
        there = ", ".join(sorted(arrays)) or "none"
        raise UserError(f"{path} has no variable {variable or 'of its own'} of two dimensions (there: {there})")
    return arrays[variable]


def read_slices(image: Path, mask: Path, rule: Volume) -> list[tuple[int, int, np.ndarray, np.ndarray, str]]:
    """The slices of a volume in order, upright: anterior above, the patient's right on the left.

    Args:
        image: of three dimensions, or four: channels where the mask has three, moments in time where it has four.
        mask: of its size.
        rule: which slices, and which values become black and white.

    Returns:
        For each: moment, number of the slice, uint8 ``[height, width, 3]``, int64 ``[height, width]``, and the size of
        its pixels ``height x width x thickness`` in mm. Moments without any label are left out.

    Raises:
        UserError: a file cannot be read, or the two do not match.
    """
    values, zooms = _volume(image, np.float32)
    labels, _ = _volume(mask, np.float64)
    if not np.isfinite(labels).all() or (labels != labels.round()).any():
        raise UserError(f"{mask} holds values that are no whole numbers: it is no mask")
    if values.ndim == 4 and labels.ndim == 3:
        if rule.channel >= values.shape[3]:
            raise UserError(f"{image} has {values.shape[3]} channels, no channel {rule.channel}: set volume.channel")
        values = values[..., rule.channel]
    if values.shape != labels.shape:
        raise UserError(
            f"{image} has the shape {values.shape} but its mask {mask} {labels.shape}: is it the right one?"
        )
    moments = range(values.shape[3]) if values.ndim == 4 else (0,)
    rows, columns = ((2, 1), (2, 0), (1, 0))[rule.axis]  # of RAS: rows go from head to foot, or from front to back
    spacing = " x ".join(f"{zooms[axis]:.4g}" for axis in (rows, columns, rule.axis))
    found = []
    for moment in moments:
        volume, label = (each[..., moment] if each.ndim == 4 else each for each in (values, labels.astype(np.int64)))
        if values.ndim == 4 and not label.any():
            continue
        grey = _grey(image, volume, rule)
        for number in range(volume.shape[rule.axis]):
            picture, drawn = (
                np.ascontiguousarray(np.moveaxis(each, (rule.axis, rows, columns), (0, 1, 2))[number][::-1, ::-1])
                for each in (grey, label)
            )
            if rule.slices == "all" or drawn.any():
                found.append((moment, number, np.repeat(picture[..., None], 3, axis=-1), drawn, spacing))
    return found


def _volume(path: Path, kind: Any) -> tuple[np.ndarray, tuple[float, ...]]:
    """Voxels in RAS order, and their size in mm."""
    try:
        import nibabel
    except ImportError:
        raise UserError(f"{path} is a NIfTI file: pip install 'tta-bench[medical]' reads it") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file: Any = nibabel.as_closest_canonical(nibabel.load(path))
            array = np.asarray(file.dataobj, dtype=kind)
    except Exception as error:  # nibabel and zlib raise errors of many types on damaged files
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}): copy it again from its origin") from None
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4):
        raise UserError(f"{path} has {array.ndim} dimensions, a volume has 3, or 4 with channels or moments")
    return array, tuple(map(float, file.header.get_zooms()[:3]))


def _grey(path: Path, volume: np.ndarray, rule: Volume) -> np.ndarray:
    """A volume as grey levels."""
    if not np.isfinite(volume).all():
        raise UserError(f"{path} holds values that are not finite: mend it")
    low, high = rule.window or np.percentile(volume, rule.percentiles)
    if high <= low:
        low, high = float(volume.min()), float(volume.max())
    if high <= low:
        raise UserError(f"{path} is constant (every value is {low:g}), nothing can be seen in it: remove it")
    return np.clip((volume - low) / (high - low) * 255 + 0.5, 0, 255).astype(np.uint8)


def _filled(polygons: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    canvas = Image.new("L", (size[1], size[0]))
    for polygon in polygons:
        ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in polygon], fill=1, outline=1)
    return np.asarray(canvas)
