"""Decode one mask file into a plain array of its values, or refuse what does not tell them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tta_bench.data.images import (
    INTEGER_MODES,
    MAX_PIXELS,
    PHOTOMETRIC_TAG,
    WHITE_IS_ZERO,
    decode,
    require_opaque,
    value_counts,
)
from tta_bench.errors import UserError


def read_mask(path: Path, *, grey: bool = False, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a mask without changing its values.

    Accepted are lossless files of one channel of 1, 8, 16 or 32 bits (values 0-255), of a palette
    (:func:`_by_palette`), and of colours whose channels are all equal.

    Args:
        path: the file.
        grey: the values are shades, so 1-bit white is 255. Otherwise they are class numbers: 1-bit white is 1.
        max_pixels: refuse larger masks.

    Returns:
        uint8 ``[height, width]``.

    Raises:
        UserError: as :func:`tta_bench.data.images.read_image`; lossy compression; values outside 0-255;
            floating-point values; colours; a palette that does not tell what its indices mean.
    """
    mask = decode(path, max_pixels, lossless=True)
    if mask.mode == "P":
        return _by_palette(path, mask, grey)
    if mask.mode in INTEGER_MODES:
        return _by_value(path, mask)
    if mask.mode not in ("1", "L", "LA", "RGB", "RGBA"):
        raise UserError(
            f"{path}: a mask holds one small integer per pixel, this file has Pillow mode {mask.mode}: "
            "save it as a one-channel 8-bit PNG"
        )
    require_opaque(path, mask)
    if mask.mode == "1":
        return np.asarray(mask.convert("L") if grey else mask).astype(np.uint8)
    if mask.mode == "L":
        return np.asarray(mask)
    channels = np.asarray(mask)[..., : 1 if mask.mode == "LA" else 3]
    if (channels != channels[..., :1]).any():
        raise UserError(_coloured(path))
    return np.ascontiguousarray(channels[..., 0])


def _by_palette(path: Path, mask: Image.Image, grey: bool) -> np.ndarray:
    """The values of a palette file: what it shows if it shows greys, and its indices if it shows colours.

    Tools that label in colours (the VOC palette, say) number the classes by index. A palette of greys is a grey
    picture stored in another way, and one of black and white alone a 1-bit picture.

    Raises:
        UserError: shades are asked for and the palette has colours; an index without an entry; two indices in one
            shade; black or white is another index than 0, so that the background may be one or the other.
    """
    indices = np.asarray(mask)
    used = list(value_counts(indices))
    colours = np.asarray(mask.getpalette("RGB"), np.uint8).reshape(-1, 3)
    remedy = "save the class numbers as a one-channel PNG without palette"
    if used[-1] >= len(colours):
        raise UserError(f"{path} uses index {used[-1]} of a palette of {len(colours)} colours: {remedy}")
    shown = colours[:, 0]
    if (colours == shown[:, None]).all():
        require_opaque(path, mask)
        if len(np.unique(shown[used])) < len(used):
            raise UserError(f"{path}: its palette shows several of the indices {used} in one shade: {remedy}")
        black_and_white = set(shown.tolist()) <= {0, 255}
        return (shown // 255 if black_and_white and not grey else shown)[indices]
    if grey:
        raise UserError(_coloured(path))
    extremes = [index for index in used if index and colours[index].tolist() in ([0, 0, 0], [255, 255, 255])]
    if extremes and colours[0].any():
        raise UserError(
            f"{path}: its palette shows index 0 in colour {tuple(colours[0].tolist())} and index {extremes[0]} in "
            f"{'white' if colours[extremes[0]].any() else 'black'}, so it is open which is the background: {remedy}"
        )
    return indices


def _by_value(path: Path, mask: Image.Image) -> np.ndarray:
    """The values of a file of 16 or 32 bits per pixel."""
    # Pillow turns 1-bit and 8-bit files of this kind round, but not these.
    if getattr(mask, "tag_v2", {}).get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO:
        raise UserError(f"{path} counts its shades from white (TIFF WhiteIsZero): save it as an 8-bit PNG")
    values = np.asarray(mask)
    if values.min() < 0 or values.max() > 255:
        raise UserError(
            f"{path}: mask values reach from {values.min()} to {values.max()}, 0-255 are possible: "
            "renumber them and save an 8-bit PNG"
        )
    return values.astype(np.uint8)


def _coloured(path: Path) -> str:
    """The refusal of a mask in colours."""
    return (
        f"{path}: a mask holds one number per pixel, this one holds colours: "
        "give data.colours={CLASS: [R, G, B]}, or replace each colour by its class number and save a one-channel PNG"
    )


def read_colours(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a mask that shows its classes in colours: uint8 ``[height, width, 3]``.

    Raises:
        UserError: as :func:`read_mask`, but for the colours.
    """
    mask = decode(path, max_pixels, lossless=True)
    require_opaque(path, mask)
    return np.asarray(mask.convert("RGB"))
