"""Decode one image file or one mask file with Pillow into a plain uint8 array, or refuse it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tta_bench.errors import UserError

_COLOUR_MODES = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "RGBA", "PA")
_INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION_TAG = 0x0112


def read_image(path: Path) -> np.ndarray:
    """Decode an image as RGB.

    Grey, palette, CMYK and YCbCr images are converted as by ``PIL.Image.convert("RGB")``; an alpha channel
    that is opaque everywhere is dropped.

    Returns:
        uint8 ``[height, width, 3]``, 0-255.

    Raises:
        UserError: missing, empty, truncated or not an image; several frames; an EXIF orientation; 16-bit,
            32-bit or floating-point values; real transparency.
    """
    image = _decode(path)
    if image.mode in _INTEGER_MODES or image.mode == "F":
        values = "floating-point values" if image.mode == "F" else "more than 8 bits per pixel"
        raise UserError(_too_deep(path, f"{values} (Pillow mode {image.mode})"))
    if image.mode not in _COLOUR_MODES:
        raise UserError(f"{path}: colour mode {image.mode} is not read: save it as an 8-bit RGB PNG")
    _require_opaque(path, image)
    return np.asarray(image.convert("RGB"))


def read_mask(path: Path, *, grey: bool = False) -> np.ndarray:
    """Decode a mask without changing its values.

    Accepted are one channel of 1, 8, 16 or 32 bits (values 0-255), a palette, and colour files whose channels
    are all equal.

    Args:
        path: the file.
        grey: the values are shades, so a palette is looked up and 1-bit white is 255. Otherwise they are
            class indices: a palette file gives its indices and 1-bit white is 1.

    Returns:
        uint8 ``[height, width]``.

    Raises:
        UserError: as :func:`read_image`; values outside 0-255; floating-point values; colours.
    """
    mask = _decode(path)
    if mask.mode in ("1", "P"):
        return np.asarray(mask.convert("L") if grey else mask).astype(np.uint8)
    if mask.mode == "L":
        return np.asarray(mask)
    if mask.mode in _INTEGER_MODES:
        values = np.asarray(mask)
        if values.min() < 0 or values.max() > 255:
            raise UserError(
                f"{path}: mask values reach from {values.min()} to {values.max()}, 0-255 are possible: "
                "renumber them and save an 8-bit PNG"
            )
        return values.astype(np.uint8)
    if mask.mode in ("LA", "RGB", "RGBA"):
        _require_opaque(path, mask)
        channels = np.asarray(mask)[..., : 1 if mask.mode == "LA" else 3]
        if (channels != channels[..., :1]).any():
            raise UserError(
                f"{path}: a mask holds one number per pixel, this one holds colours: "
                "replace each colour by its class number and save a one-channel PNG"
            )
        return np.ascontiguousarray(channels[..., 0])
    raise UserError(
        f"{path}: a mask holds one small integer per pixel, this file has Pillow mode {mask.mode}: "
        "save it as a one-channel 8-bit PNG"
    )


def resize(image: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Bring an image and its mask to the square network input; the aspect ratio is not kept, as in the paper.

    Args:
        image: uint8 ``[height, width, 3]``, resized with Pillow's bicubic filter.
        mask: uint8 ``[height, width]``, resized to the nearest value.
        size: side in pixels.

    Returns:
        uint8 ``[size, size, 3]`` and uint8 ``[size, size]``.
    """
    target = (size, size)
    return (
        np.asarray(Image.fromarray(image).resize(target, Image.Resampling.BICUBIC)),
        np.asarray(Image.fromarray(mask).resize(target, Image.Resampling.NEAREST)),
    )


def _decode(path: Path) -> Image.Image:
    """Open and decode a file completely, so that a truncated one is found here and not during a run."""
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty (0 bytes): copy it again from its origin")
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            # Pillow drops the lower bytes of deep colour files silently; only its raw mode shows the depth.
            raw_modes = " ".join(str(tile[3]) for tile in image.tile)
            # Pillow turns TIFF files upright while loading and then forgets the tag.
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)
            image.load()
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: restore it, or remove its entry") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image that Pillow can read: remove it or save it as PNG") from None
    except Exception as error:  # Pillow's plug-ins raise errors of many types on damaged files
        if isinstance(error, OSError) and error.strerror:  # from the system, not from Pillow
            raise UserError(f"{path} cannot be read ({error.strerror}): mend or remove it") from None
        raise UserError(f"{path} is damaged ({error}): copy it again from its origin") from None
    # A camera's MPO file is a JPEG whose further frames are previews.
    if frames > 1 and image.format != "MPO":
        raise UserError(f"{path} holds {frames} frames, one is expected: save the right one as PNG")
    if ";16" in raw_modes and image.mode not in _INTEGER_MODES:
        raise UserError(_too_deep(path, "16 bits per channel"))
    if orientation not in (0, 1):
        # Whether image and mask match before or after the rotation cannot be known, so do not guess.
        raise UserError(
            f"{path} is to be shown turned (EXIF orientation {orientation}); some programs do so and some do not, "
            "so it may not match the other file of its pair: save both upright without that tag"
        )
    return image


def _require_opaque(path: Path, image: Image.Image) -> None:
    """Refuse transparency: what is shown under it is not defined by the file."""
    if image.has_transparency_data and np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
        raise UserError(f"{path} has transparent pixels: flatten it onto its background and save without alpha")


def _too_deep(path: Path, found: str) -> str:
    """The refusal of values beyond 8 bits: which range holds the picture is not recorded in the file."""
    return f"{path} has {found}, 8-bit images are expected: scale its values to 0-255 and save an 8-bit PNG"
